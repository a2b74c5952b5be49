"""Shared by the encoders of time series: what reads their cells, and the steps that are real."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmfuse._checks import require_known_names
from mmfuse.contracts import Input
from mmfuse.data.series_statistics import READING
from mmfuse.data.transforms.series import SeriesTransform
from mmfuse.encoders._inputs import require_width, token_mask


def series_transform(
    owner: str,
    channels: int | None,
    mean: Sequence[int | float] | None,
    std: Sequence[int | float] | None,
    reading: Mapping[str, Any] | None,
) -> SeriesTransform:
    """The transform of an encoder, from the keywords that :func:`mmfuse.data.series_statistics` makes."""
    require_known_names(f"{owner}(reading=...)", reading or {}, READING, "keyword")
    if channels is None:
        raise ValueError(
            f"{owner} got no channels. Expected how many a series has, and their means and standard deviations in the "
            f"training table. Write {owner}(64, **series_statistics(train, 'name'))."
        )
    return SeriesTransform(channels, mean=mean, std=std, **(reading or {}))


def real_steps(
    owner: str, input: Input, width: int, dtype: torch.dtype
) -> tuple[Float[Tensor, "batch time width"], Bool[Tensor, "batch time"]]:
    """The steps of a series, zeros where nothing is real, and the mask of what is."""
    require_width(owner, input, width, vectors=False)
    mask = token_mask(input)
    return torch.where(mask[..., None], input.values, 0.0).to(dtype), mask
