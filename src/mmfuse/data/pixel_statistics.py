"""What the encoder of images or videos has to know of the training data: mean and deviation of each channel."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mmfuse._checks import require_count
from mmfuse.data.errors import DataError
from mmfuse.data.tables.places import place_of
from mmfuse.data.tables.table import Table
from mmfuse.data.transforms.image import ImageTransform
from mmfuse.data.transforms.video import VideoTransform

SIDE, FRAMES = 96, 8
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v", ".mpg", ".mpeg", ".npy", ".npz")


def pixel_statistics(
    table: Table, column: str, *, transform: Any = None, samples: int = 1000
) -> dict[str, list[float]]:
    r"""The keywords by which an encoder normalises pixels: of the training table, never of the test data::

        CNNEncoder.preset("plain", **pixel_statistics(train, "depth"))

    .. math::
        \mu_c = \frac{1}{n} \sum_i \frac{x_{ic}}{255}, \qquad
        \sigma_c^2 = \frac{1}{n} \sum_i \Big(\frac{x_{ic}}{255} - \mu_c\Big)^2

    Over all pixels of some images, read one by one; the sums are exact. A channel that is constant gets the deviation
    1. For weights trained on photographs keep the statistics that they were trained with.

    Args:
        table: the training table.
        column: its images or videos. Empty cells count for nothing.
        transform: from a cell to pixels of uint8 ``(..., channel, height, width)``, not at random. None:
            ``ImageTransform(96)``, and ``VideoTransform(96, num_frames=8)`` where the first cell is a video file or has
            four axes. A volume needs its own: ``VolumeTransform(96)``.
        samples: so many images, drawn by a fixed seed; all if there are fewer.

    Raises:
        DataError: the column is empty, or a cell cannot be read (the message names the line).
        ValueError: if the transform is a random one, or gives something else than pixels.
    """
    table.require_column(column)
    require_count("pixel_statistics", samples=samples)
    if getattr(transform, "random", False):
        raise ValueError(
            f"pixel_statistics got a {type(transform).__name__} that changes images at random. Expected the one of "
            "evaluation. Give encoder.transform() without train=True."
        )
    counts: Any = 0
    for row in _draw(table, column, samples):
        cell = table.cell(row, column)
        transform = transform or _guess(cell)
        counts = counts + _counts(transform, table, row, column)
    if transform is None:
        raise DataError(f"{table.name}: column {column!r} has no image. Expected at least one. Fill some cells.")
    return _moments(counts)


def _draw(table: Table, column: str, samples: int) -> Iterator[int]:
    """Some rows that are not empty; in an order of their own, since tables are often sorted."""
    left = samples
    for row in np.random.default_rng(0).permutation(len(table)).tolist():
        if table.cell(row, column) is not None:
            yield row
            left -= 1
        if not left:
            return


def _guess(cell: Any) -> Any:
    is_video = isinstance(cell, str) and Path(cell).suffix.lower() in VIDEOS
    is_clip = isinstance(cell, tuple) or len(getattr(cell, "shape", ())) == 4
    return VideoTransform(SIDE, num_frames=FRAMES) if is_video or is_clip else ImageTransform(SIDE)


def _counts(transform: Any, table: Table, row: int, column: str) -> Int[Tensor, "channel 256"]:
    """How often each of the 256 values is in each channel of an image."""
    cell = table.cell(row, column)
    try:
        pixels = transform(table.path(cell) if isinstance(cell, str) else cell)
    except (ValueError, OSError) as error:
        where = f"{place_of(table, row)}, column {column!r}, {str(cell)[:80]!r}"
        raise DataError(f"{where}: {error} Mend or empty the cell. inspect lists all such cells.") from error
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.dim() < 3:
        raise ValueError(
            f"{type(transform).__name__} gave a {getattr(pixels, 'dtype', type(pixels).__name__)}. Expected pixels of "
            "uint8 (..., channel, height, width). Take a transform of images or videos."
        )
    return torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in pixels.movedim(-3, 0)])


def _moments(counts: Tensor) -> dict[str, list[float]]:
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(dim=1, keepdim=True)
    mean = (share * values).sum(dim=1)
    std = (share * (values - mean[:, None]).square()).sum(dim=1).sqrt()
    constant = (counts > 0).sum(dim=1) == 1  # rounding may have moved it a little
    return {"mean": mean.tolist(), "std": torch.where(constant, 1.0, std).tolist()}
