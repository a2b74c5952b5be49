"""The steps of a series in time: brought to an even rate, and how long each channel has not been seen."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float


def to_even_rate(
    channels: Float[np.ndarray, "before channel"],
    seconds: Float[np.ndarray, " before"],
    *,
    rate_hz: int | float,
    max_gap_s: int | float,
    max_bytes: int,
) -> Float[np.ndarray, "time channel"]:
    """Linear interpolation at the first time and every ``1 / rate_hz`` seconds after it, up to the last.

    Each channel is interpolated between its own observations (NaN is none), and is NaN where the two around a moment
    are further apart than ``max_gap_s``, and before the first and after the last.
    """
    near = 1e-6 / rate_hz + 2 * np.spacing(np.abs(seconds).max())  # seconds since 1970 are rounded to 2e-7
    count = int((seconds[-1] - seconds[0] + near) * rate_hz) + 1
    if count * channels.shape[1] * 8 > max_bytes:
        raise ValueError(
            f"The series lasts {seconds[-1] - seconds[0]:g} seconds: {count} steps at {rate_hz:g} Hz, "
            f"{count * channels.shape[1] * 8} bytes. Expected at most {max_bytes}. "
            "Are its times in seconds? Give a lower rate_hz, or raise max_bytes."
        )
    grid = seconds[0] + np.arange(count) / rate_hz
    return np.stack([_interpolated(grid, seconds, channel, max_gap_s, near) for channel in channels.T], 1)


def _interpolated(grid: Any, seconds: Any, channel: Any, max_gap_s: int | float, near: float) -> Any:
    seen = ~np.isnan(channel)
    if not seen.any():
        return np.full(len(grid), np.nan)
    known, values = seconds[seen], channel[seen]
    after = np.searchsorted(known, grid).clip(max=len(known) - 1)
    before = np.where(known[after] > grid, after - 1, after).clip(min=0)
    inside = (known[before] <= grid) & (grid <= known[after]) & (known[after] - known[before] <= max_gap_s + near)
    exact = np.minimum(np.abs(known[before] - grid), np.abs(known[after] - grid)) <= near
    return np.where(inside | exact, np.interp(grid, known, values), np.nan)


def since_seen(seen: Bool[np.ndarray, "time channel"], seconds: Float[np.ndarray, " time"]) -> Any:
    r"""How long before each step each channel was seen last: the intervals of GRU-D (Che et al., 2018, eq. 2).

    .. math::
        \delta_t = s_t - s_{t-1} + (1 - m_{t-1})\, \delta_{t-1}, \qquad \delta_1 = 0

    A channel that has not been seen yet counts from the first step.
    """
    places = np.where(seen, np.arange(len(seen))[:, None], 0)
    last = np.maximum.accumulate(places, axis=0)[:-1]  # for every step but the first
    return np.concatenate([np.zeros((1, seen.shape[1])), seconds[1:, None] - seconds[last]])
