"""Features that were extracted before -> float32 (width,) or (time, width)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mmfuse._checks import require_count, require_positive
from mmfuse._record import recorded
from mmfuse.data.transforms._arrays import MAX_BYTES, read_array, read_steps, to_float32


@recorded
class FeatureTransform:
    """Read one vector a sample, or a sequence of vectors, out of a file of any kind or out of the cell itself.

    Takes the path or the bytes of a .npy, .npz, .safetensors,
    .csv or .parquet file, an array, a tensor, or lists of numbers (Parquet columns of lists come as arrays).

    Args:
        width: numbers in one vector.
        sequence: each sample has any number of vectors, one for each step in time.
        key: which array of an .npz or .safetensors file; not needed if there is only one.
        max_steps: sequences are cut off after so many steps, and :meth:`batch` counts what is lost; None: never.
        max_bytes: largest size of one sample in memory, in bytes; a larger file is refused by its header.

    Raises:
        ValueError: the file cannot be read, has another shape, or holds values that are not finite.
    """

    takes_path = True
    random = False

    def __init__(
        self,
        width: int,
        *,
        sequence: bool = False,
        key: str | None = None,
        max_steps: int | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        require_count("FeatureTransform", width=width, max_steps=1 if max_steps is None else max_steps)
        require_positive("FeatureTransform", max_bytes=max_bytes)
        if max_steps is not None and not sequence:
            raise ValueError(
                f"FeatureTransform got max_steps={max_steps} for single vectors. Expected it with sequence=True only. "
                "Leave it out, or set sequence=True."
            )
        self.width, self.sequence, self.key, self.max_steps, self.max_bytes = width, sequence, key, max_steps, max_bytes
        self.padding = 0.0 if sequence else None

    def __call__(self, value: Any) -> Float[Tensor, "*time width"]:
        return self._read(value)[0]

    def batch(self, values: Sequence[Any]) -> tuple[list[Float[Tensor, "*time width"]], list[int]]:
        """The tensors of several values, and how many steps each has lost."""
        if self.sequence or not values:
            read = [self._read(value) for value in values]
            return [features for features, _ in read], [lost for _, lost in read]
        rows = np.stack([self._array(value)[0] for value in values])
        return list(_require_finite(to_float32(rows))), [0] * len(values)

    def whole(self, values: Any) -> Float[Tensor, "row *time width"]:
        """Rows of a column that is one array, all at once: (row, width) or (row, time, width)."""
        plain = isinstance(values, Tensor) and values.dtype == torch.float32 and values.device.type == "cpu"
        features = values if plain else to_float32(read_array(values))
        if features.dim() != 2 + self.sequence or features.shape[-1] != self.width:
            raise self._wrong(tuple(features.shape[1:]))
        if self.max_steps is not None and features.shape[1] > self.max_steps:
            raise ValueError(
                f"The column has {features.shape[1]} steps in every row. Expected at most max_steps={self.max_steps}. "
                "Cut the array itself: array[:, :max_steps]."
            )
        return _require_finite(features)

    def lengths(self, values: Sequence[Any]) -> list[int]:
        """How many steps each sequence has; of .npy and .safetensors files only the headers are read."""
        nothing = slice(0, 0)
        known = [read_steps(value, nothing, key=self.key, max_bytes=self.max_bytes)[1] for value in values]
        return [length if self.max_steps is None else min(length, self.max_steps) for length in known]

    def blank(self) -> Float[Tensor, "*time width"]:
        """What stands in for absent features."""
        return torch.zeros((1, self.width) if self.sequence else self.width)

    def _read(self, value: Any) -> tuple[Tensor, int]:
        array, lost = self._array(value)
        return _require_finite(to_float32(array)), lost

    def _array(self, value: Any) -> tuple[Any, int]:
        """The array of a value, and how many steps it has lost."""
        steps = None if self.max_steps is None else slice(0, self.max_steps)
        array, length = read_steps(value, steps, key=self.key, max_bytes=self.max_bytes)
        return self._shaped(array), length - len(array) if self.sequence else 0

    def _shaped(self, array: Any) -> Any:
        shape = array.shape
        if self.sequence and len(shape) == 1 and self.width == 1:
            array = array[:, None]  # a single channel
        elif not self.sequence and shape == (1, self.width):
            array = array[0]  # what programs write that work on batches
        if array.ndim != 1 + self.sequence or array.shape[-1] != self.width:
            raise self._wrong(shape)
        if not len(array):
            raise ValueError(
                "The sequence has no steps. Expected at least one. Leave the cell empty where there is none."
            )
        return array

    def _wrong(self, shape: tuple[int, ...]) -> ValueError:
        expected = f"(time, width={self.width})" if self.sequence else f"(width={self.width},)"
        if len(shape) == 2 - self.sequence:
            mend = f"Use sequence={not self.sequence} for {'single vectors' if self.sequence else 'sequences'}."
        elif len(shape) == 2 and shape[0] == self.width:
            mend = "Transpose the array: time comes first."
        elif len(shape) == 1 + self.sequence:
            mend = f"Build the encoder with the width of the features, {shape[-1]}."
        else:
            mend = "Take one layer, one window or one mean of it, and save that."
        return ValueError(f"The features of a sample have shape {shape}. Expected {expected}. {mend}")


def _require_finite(features: Tensor) -> Tensor:
    if math.isfinite(features.sum().item()):  # a sixth of the time; a sum that overflows is looked at again
        return features
    if broken := int((~features.isfinite()).sum()):
        raise ValueError(
            f"The features have {broken} of {features.numel()} values that are NaN or infinite. Expected finite "
            "numbers. Extract them again, or leave the cell empty."
        )
    return features
