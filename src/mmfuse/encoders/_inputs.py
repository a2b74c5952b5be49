"""Shared by the encoders: checks of the input, and which of its steps are real."""

from jaxtyping import Bool, Int
from torch import Tensor

from mmfuse.contracts import Input


def require_width(owner: str, input: Input, width: int, *, name: str = "width", vectors: bool = True) -> None:
    """Raise ValueError unless the values are (batch, time, width), or (batch, width) where vectors are allowed."""
    shape = tuple(input.values.shape)
    if len(shape) not in ((2, 3) if vectors else (3,)) or shape[-1] != width:
        expected = f"(batch, time, {name}={width})"
        raise ValueError(
            f"{owner} input has shape {shape}. Expected {f'(batch, {name}={width}) or ' * vectors}{expected}. "
            "Build it with the width of the features."
        )


def token_mask(input: Input) -> Bool[Tensor, "batch time"]:
    """Which steps of a sequence are real: none in a sample that lacks the modality."""
    mask = input.present[:, None].expand(input.values.shape[:2])
    return mask if input.mask is None else mask & input.mask


def real_lengths(input: Input) -> Int[Tensor, " batch"]:
    """How many steps of each sample are real; 0 where it is absent."""
    return token_mask(input).sum(dim=1)


def require_row(owner: str, input: Input, width: int) -> None:
    """Raise ValueError unless the values are the rows that a ``TabularTransform`` makes."""
    if tuple(input.values.shape[1:]) != (width,):
        raise ValueError(
            f"{owner} input has shape {tuple(input.values.shape)}. Expected (batch, width={width}). "
            "Make rows with the transform of this very encoder."
        )
