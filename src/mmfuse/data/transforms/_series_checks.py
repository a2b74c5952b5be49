"""What a series must be: so many channels, finite numbers, times that grow, and no gap where none may be."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmfuse._checks import nearest


def require_channels(series: Any, channels: int) -> None:
    """Raise ValueError unless the series has this number of channels, a step, and nothing infinite."""
    time, width = series.shape
    if width != channels:
        turned = f" Its first axis has {time}: turn it round, array.T." if time == channels else ""
        raise ValueError(
            f"The series has shape {series.shape}: {width} channels. Expected (time, {channels}).{turned} "
            "Choose the columns of the channels, or build the encoder with the number there is."
        )
    if not time:
        require_some(series)
    if infinite := np.argwhere(np.isinf(series)).tolist():
        step, channel = infinite[0]
        raise ValueError(
            f"The series has {len(infinite)} infinite values, the first in channel {channel} at step {step}. "
            "Expected finite ones. Mend them, or write NaN where one is missing."
        )


def require_columns(found: Sequence[str], wanted: Sequence[str], what: str) -> None:
    """Raise ValueError unless every column that is wanted is among those of a table."""
    for name in wanted:
        if name not in found:
            there = f"only {list(found)[:20]}" if found else "and no header that names any"
            raise ValueError(
                f"The series has no column {name!r}, {there}. Expected it: {what}.{nearest(name, found)} "
                "Name the columns so."
            )


def require_some(series: Any) -> None:
    """Raise ValueError for a series without a single number."""
    if np.isnan(series).all():
        raise ValueError(
            f"The series has {len(series)} steps, and no number in them. Expected at least one. "
            "Leave the cell empty where there is nothing."
        )


def require_no_gap(series: Any, max_gap_s: float | None) -> None:
    """Raise ValueError if a value is missing; ``max_gap_s`` is what bounded the interpolation, if there was one."""
    if missing := np.argwhere(np.isnan(series)).tolist():
        step, channel = missing[0]
        gap = "" if max_gap_s is None else f", or in a gap of more than max_gap_s={max_gap_s:g} seconds"
        raise ValueError(
            f"The series has {len(missing)} of {series.size} values missing (NaN){gap}, the first in channel "
            f"{channel} at step {step}. Expected every value. Fill them, or build the encoder with "
            "reading={'gaps': 'keep'}, which flags them."
        )


def require_growing(seconds: Any) -> None:
    """Raise ValueError unless the times are finite and each is above the one before."""
    bad = ~np.isfinite(seconds)
    bad[1:] |= ~(np.diff(seconds) > 0)
    if wrong := np.flatnonzero(bad).tolist():
        step = wrong[0]
        before = f" after {seconds[step - 1]:g}" if step else ""
        raise ValueError(
            f"The times of the series do not grow at {len(wrong)} steps, the first is step {step}: "
            f"{seconds[step]:g}{before}. Expected finite seconds, each above the one before. "
            "Sort the steps by time, and take out repeats."
        )
