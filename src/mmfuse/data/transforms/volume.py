"""Volumes (CT, MRI) -> uint8 (slice, channel, height, width)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import interpolate, pad

from mmfuse._checks import require_choice, require_count, require_positive
from mmfuse._record import recorded
from mmfuse.data.transforms._arrays import read_array
from mmfuse.data.transforms._nifti import Volume, is_nifti, read_nifti, require_volume

MAX_VOXELS = 2**27  # 512 x 512 x 512
SAMPLE = 1_000_000  # about so many voxels are what percentiles are taken of


@recorded
class VolumeTransform:
    """Cut a volume into slices, and bring their values to 0 to 255: what an encoder of videos takes as frames.

    Takes the path or the bytes of a NIfTI file (.nii, .nii.gz; ``pip install 'mmfuse[medical]'``), of a .npy or .npz
    file, or an array of three axes. NIfTI volumes are turned so that their axes run from left to right, from back to
    front and from feet to head (``nibabel.as_closest_canonical``); in their slices the front, or the head, is at the
    top. Arrays are taken as they lie.

    Each slice is fitted into the square in its true proportions (NIfTI files tell the spacing of their voxels), with
    0 around it. ``slices`` are taken at equal distances over the whole length, so that a volume of thick slices and one
    of thin slices show the same places; of a volume that has fewer, all.

    Args:
        size: height and width of the slices, in pixels.
        slices: how many are taken; None: all of them.
        axis: along which it is cut: 0, 1 or 2. None: from feet to head (2) in NIfTI files, 0 in arrays.
        window: the values that become 0 and 255, in the unit of the file, such as (-1000, 400) Hounsfield for lungs.
        percentiles: the same as percentiles of the volume itself, where no ``window`` is given: MRI has no unit.
        channels: 1, or 3 equal ones.
        max_voxels: largest number of voxels, told by the header.

    Raises:
        ValueError: for a file that is missing, damaged or too large, and for volumes with NaN or another number of
            axes.
        ImportError: for a NIfTI file without nibabel.
    """

    takes_path = True
    padding = 0.0
    random = False

    def __init__(
        self,
        size: int,
        *,
        slices: int | None = 32,
        axis: int | None = None,
        window: Sequence[int | float] | None = None,
        percentiles: Sequence[int | float] = (0.5, 99.5),
        channels: int = 3,
        max_voxels: int = MAX_VOXELS,
    ) -> None:
        require_count("VolumeTransform", size=size, slices=1 if slices is None else slices)
        require_positive("VolumeTransform", max_voxels=max_voxels)
        require_choice("VolumeTransform", "axis", axis, (None, 0, 1, 2))
        require_choice("VolumeTransform", "channels", channels, (1, 3))
        _require_rising("window", window or (0, 1), (-1000, 400))
        _require_rising("percentiles", percentiles, (0.5, 99.5), 0, 100)
        self.size = size
        self.slices = slices
        self.axis = axis
        self.window = None if window is None else tuple(window)
        self.percentiles = tuple(percentiles)
        self.channels = channels
        self.max_voxels = max_voxels

    def __call__(self, value: Any) -> UInt8[Tensor, "slice channel height width"]:
        upright = is_nifti(value)
        volume = read_nifti(value, self.max_voxels) if upright else self._read_array(value)
        axis = (2 if upright else 0) if self.axis is None else self.axis
        planes = np.moveaxis(volume.numbers, axis, 0)  # (slice, one axis, the other)
        spacing = [step for i, step in enumerate(volume.spacing) if i != axis]
        if upright:  # the later axis downwards, from front to back or from head to feet
            planes, spacing = planes.swapaxes(1, 2)[:, ::-1], spacing[::-1]
        low, high = self._limits(volume)
        taken = torch.from_numpy(_scaled(planes[self._places(len(planes))], volume))
        grey = ((taken - low) / max(high - low, 1e-12) * 255).clamp_(0, 255).round_().to(torch.uint8)
        return self._fitted(grey[:, None], spacing).expand(-1, self.channels, -1, -1).contiguous()

    def blank(self) -> UInt8[Tensor, "slice channel height width"]:
        """What stands in for an absent volume."""
        return torch.zeros(1, self.channels, self.size, self.size, dtype=torch.uint8)

    def _read_array(self, value: Any) -> Volume:
        # 8 bytes a voxel: what float64 takes. The shape is judged when it is there.
        numbers = read_array(value if not isinstance(value, str) else Path(value), max_bytes=8 * self.max_voxels)
        return Volume(numbers.reshape(require_volume(numbers.shape, self.max_voxels)))

    def _places(self, length: int) -> Any:
        """Which slices are taken."""
        count = length if self.slices is None else min(self.slices, length)
        # The middle of each of so many equal parts.
        return ((np.arange(count) + 0.5) * length / count).astype(int)

    def _limits(self, volume: Volume) -> tuple[float, float]:
        """The values that become 0 and 255; ValueError if the volume is not finite."""
        if volume.numbers.dtype.kind == "f" and (broken := int((~np.isfinite(volume.numbers)).sum())):
            raise ValueError(
                f"The volume has {broken} of {volume.numbers.size} voxels that are NaN or infinite. Expected finite "
                "voxels. Give those outside the body the value of air: numpy.nan_to_num(array, nan=-1000)."
            )
        if self.window is not None:
            return float(self.window[0]), float(self.window[1])
        step = math.ceil((volume.numbers.size / SAMPLE) ** (1 / 3))
        low, high = np.percentile(_scaled(volume.numbers[::step, ::step, ::step], volume), self.percentiles)
        return float(low), float(high)

    def _fitted(self, planes: Tensor, spacing: Sequence[float]) -> Tensor:
        """In true proportions in the middle of the square."""
        sides = [length * step for length, step in zip(planes.shape[2:], spacing, strict=True)]
        height, width = (max(1, round(self.size * side / max(sides))) for side in sides)
        resized = interpolate(planes, (height, width), mode="bilinear", antialias=True)
        above, before = (self.size - height) // 2, (self.size - width) // 2
        return pad(resized, (before, self.size - width - before, above, self.size - height - above))


def _scaled(numbers: Any, volume: Volume) -> Any:
    return numbers.astype(np.float32) * np.float32(volume.slope) + np.float32(volume.intercept)


def _require_rising(name: str, values: Sequence[int | float], example: Sequence[int | float], *limits: int) -> None:
    low, high = limits or (-float("inf"), float("inf"))
    if len(values) != 2 or not low <= values[0] < values[1] <= high:
        raise ValueError(
            f"VolumeTransform got {name}={list(values)}. Expected two numbers, the smaller first"
            f"{', from 0 to 100' if limits else ''}. Try {name}={example}."
        )
