"""Sensor and other time series -> float32 (time, width), standardised."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mmfuse._checks import require_choice, require_count, require_positive
from mmfuse._record import recorded
from mmfuse.data.transforms._arrays import MAX_BYTES, read_steps
from mmfuse.data.transforms._series_cells import Series, read_series
from mmfuse.data.transforms._series_checks import require_channels, require_growing, require_no_gap, require_some
from mmfuse.data.transforms._series_times import since_seen, to_even_rate


@recorded
class SeriesTransform:
    r"""Read a series, bring it to an even rate if asked for, standardise each channel, and flag what is missing.

    Takes an array ``(time, channel)``, or ``(time,)`` for one channel: as the path or the bytes of a .npy, .npz, .csv
    or .parquet file, as an array or tensor, as lists of numbers, or as a mapping ``{"times": ..., "values": ...}``. A
    missing number is NaN, or null in JSON. Columns of a table with a header are taken by their ``names``, in any order;
    all others by their place. The result has, side by side:

    1. ``channels`` values, :math:`(x - \text{mean}) / \text{std}`; 0, which is the mean, where one is missing;
    2. with ``gaps="keep"``, ``channels`` flags: 1 where the value was observed;
    3. with ``gaps="keep"``, for each channel how long ago it was observed last: with the values and the flags the
       input of GRU-D (Che et al., 2018, https://arxiv.org/abs/1606.01865). With ``gaps="error"``, where the steps are
       uneven in time, one such channel: how long ago the step before was. As the logarithm of steps, or of seconds,
       then standardised, where the steps are uneven; 0 at the first step.

    Args:
        channels: how many the series has, without its times.
        mean: of each channel in the training data, and after them, where the steps are uneven, that of the logarithm
            of the seconds between two steps; None: 0. :func:`mmfuse.data.series_statistics` makes it.
        std: their standard deviations; None: 1.
        times: where the times of the steps stand: the number of a column, or the name of a column, of an array in an
            .npz file or of a key of the mapping; None or False: the steps are even. Points of time, such as
            "2024-01-01 00:00:00", become seconds since the first. Numbers are seconds where there is ``rate_hz``; may
            be of any unit, the same for all series, where there is none.
        names: of the channels: columns of a .csv or .parquet file with a header are found by them, and there must be
            no others; None: columns go by their place.
        rate_hz: bring a series with ``times`` to so many steps a second by linear interpolation. None: the steps stay
            uneven. Nothing is filtered: what swings faster than ``rate_hz / 2`` is lost or shows up slower.
        max_gap_s: between two observations that are further apart, in seconds, nothing is interpolated: it is a gap.
        gaps: what a missing number does: "error", or "keep", which fills and flags it.
        max_steps: what comes after so many steps is cut off, and counted; None: nothing.
        max_bytes: larger arrays are refused.

    Raises:
        ValueError: for what is no series of so many channels, has a gap that may not be, or times that do not grow.
    """

    takes_path = True
    padding = 0.0
    random = False

    def __init__(  # noqa: PLR0913  flat keywords, of which a series needs few
        self,
        channels: int,
        *,
        mean: Sequence[int | float] | None = None,
        std: Sequence[int | float] | None = None,
        times: int | str | None = None,
        names: Sequence[str] | None = None,
        rate_hz: int | float | None = None,
        max_gap_s: int | float = 1.0,
        gaps: str = "error",
        max_steps: int | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        require_count("SeriesTransform", channels=channels)
        require_positive("SeriesTransform", max_gap_s=max_gap_s, max_bytes=max_bytes)
        limits = {"rate_hz": rate_hz, "max_steps": max_steps}
        require_positive("SeriesTransform", **{name: x for name, x in limits.items() if x is not None})
        require_choice("SeriesTransform", "gaps", gaps, ("error", "keep"))
        if times is True:
            raise ValueError(
                "SeriesTransform got times=True. Expected the number or the name of a column, or None or False for "
                "even steps. Give times=0 for the first column."
            )
        times = None if times is False else times
        if names is not None and not len(set(names)) == len(names) == channels:
            raise ValueError(
                f"SeriesTransform got names={list(names)[:20]} for channels={channels}. Expected one name for each "
                "channel, all different. Take those of series_statistics(table, column)."
            )
        if rate_hz is not None and times is None:
            raise ValueError(
                f"SeriesTransform got rate_hz={rate_hz} without times. Expected to know when each step was. "
                "Say where the seconds stand, such as times=0 for the first column; even steps need no rate."
            )
        self.channels, self.times, self.rate_hz, self.max_gap_s = channels, times, rate_hz, max_gap_s
        self.names = None if names is None else list(names)
        self.gaps, self.max_steps, self.max_bytes = gaps, max_steps, max_bytes
        self.uneven = times is not None and rate_hz is None
        self.mean = self._numbers("mean", mean, 0.0)
        self.std = self._numbers("std", std, 1.0)
        require_positive("SeriesTransform", **{f"std[{i}]": x for i, x in enumerate(self.std.tolist())})

    @property
    def width(self) -> int:
        """Width of the result."""
        return 3 * self.channels if self.gaps == "keep" else self.channels + self.uneven

    def __call__(self, value: Any) -> Float[Tensor, "time width"]:
        return self._make(value)[0]

    def batch(self, values: Sequence[Any]) -> tuple[list[Tensor], list[int]]:
        """The series of a batch, and how many steps each has lost to ``max_steps``."""
        made = [self._make(value) for value in values]
        return [tensor for tensor, _ in made], [lost for _, lost in made]

    def lengths(self, values: Sequence[Any]) -> list[int]:
        """How many steps each series becomes; arrays without times are told by their headers, others are read."""
        nothing = slice(0, 0)
        known = [
            read_steps(value, nothing, max_bytes=self.max_bytes)[1] if self.times is None else len(self.steps(value)[0])
            for value in values
        ]
        return [length if self.max_steps is None else min(length, self.max_steps) for length in known]

    def blank(self) -> Float[Tensor, "1 width"]:
        """What stands in for an absent series."""
        return torch.zeros(1, self.width)

    def steps(self, value: Any) -> Series:
        """The channels as they are, float64 ``(time, channel)``, NaN where missing, and the seconds if uneven."""
        channels, seconds, names = read_series(value, self.times, self.max_bytes, self.names)
        require_channels(channels, self.channels)
        if seconds is not None:
            require_growing(seconds)
        if seconds is not None and self.rate_hz is not None:
            gap, room = self.max_gap_s, self.max_bytes
            channels = to_even_rate(channels, seconds, rate_hz=self.rate_hz, max_gap_s=gap, max_bytes=room)
            seconds = None
        require_some(channels)
        if self.gaps == "error":
            require_no_gap(channels, self.max_gap_s if self.rate_hz else None)
        return Series(channels, seconds, names)

    def _make(self, value: Any) -> tuple[Tensor, int]:
        channels, seconds, _ = self.steps(value)
        lost = max(0, len(channels) - (self.max_steps or len(channels)))
        values = (channels - self.mean[: self.channels]) / self.std[: self.channels]
        seen = ~np.isnan(values)
        parts = [np.where(seen, values, 0.0)]
        if self.gaps == "keep":
            parts += [seen, self._elapsed(seen, seconds)]
        elif self.uneven:
            parts += [self._elapsed(np.ones((len(values), 1), dtype=bool), seconds)]
        made = torch.from_numpy(np.concatenate(parts, axis=1)[: self.max_steps]).float()
        if large := int(made.isinf().sum()):
            raise ValueError(
                f"The series has {large} values that float32 cannot hold when standardised. Expected values of the "
                "size of the training data. Mend them, or leave the series out."
            )
        return made, lost

    def _elapsed(self, seen: Any, seconds: Any) -> Any:
        ago = since_seen(seen, np.arange(float(len(seen))) if seconds is None else seconds)[1:]
        logs = (np.log(ago) - self.mean[-1]) / self.std[-1] if self.uneven else np.log(ago)
        return np.concatenate([np.zeros((1, seen.shape[1])), logs])

    def _numbers(self, name: str, given: Sequence[int | float] | None, default: float) -> Any:
        size = self.channels + self.uneven
        numbers = np.full(size, default) if given is None else np.asarray(given, dtype=np.float64)
        if numbers.shape != (size,) or not np.isfinite(numbers).all():
            elapsed = ", and one for the time between steps" if self.uneven else ""
            raise ValueError(
                f"SeriesTransform got {name} of shape {numbers.shape} for channels={self.channels}. Expected {size} "
                f"finite numbers, one a channel{elapsed}. Take those of series_statistics(table, column)."
            )
        return numbers
