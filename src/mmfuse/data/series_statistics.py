"""What the encoder of a series has to know of the training data: channels, their means and standard deviations."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np

from mmfuse._checks import require_known_names
from mmfuse.data.errors import DataError
from mmfuse.data.tables.places import place_of
from mmfuse.data.tables.table import Table
from mmfuse.data.transforms._arrays import MAX_BYTES
from mmfuse.data.transforms._series_cells import Series, read_guessing, read_series
from mmfuse.data.transforms.series import SeriesTransform

GROWN = 8  # so many steps upwards and none down are hardly chance
READING = ("times", "names", "rate_hz", "max_gap_s", "gaps", "max_steps", "max_bytes")


def series_statistics(table: Table, column: str, *, reading: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keywords by which an encoder standardises a series: of the training table, never of the test data::

        SeriesEncoder(64, **series_statistics(train, "inertial", reading={"gaps": "keep"}))

    Means and standard deviations are over all observed steps of all series, in float64, each file read once. Missing
    values and empty cells count for nothing; a channel that is constant or never observed gets the deviation 1. Where
    the steps are uneven, the last number is that of the logarithm of the seconds between two steps. Where the
    series are tables with a header, the names of the channels are among the results, and columns are found by them.

    Args:
        table: the training table.
        column: its series.
        reading: the keywords of :class:`SeriesTransform` that say how a cell is read: ``times``, ``names``,
            ``rate_hz``, ``max_gap_s``, ``gaps``, ``max_steps`` and ``max_bytes``. They are among the results. A column
            that is called "time", "date" or alike is a channel only with ``{"times": False}``.

    Raises:
        DataError: the column is empty, a cell is no such series (the message names the line), or nothing is said of
            what looks like times. A first column that only grows in every series is a warning.
    """
    table.require_column(column)
    reading = dict(reading or {})
    require_known_names("series_statistics(reading=...)", reading, READING, "keyword")
    cells = ((row, cell) for row in range(len(table)) if (cell := table.cell(row, column)) is not None)
    first = next(cells, None)
    if first is None:
        raise DataError(f"{table.name}: column {column!r} has no series. Expected at least one. Fill some cells.")
    seen = _look(table, *first, column, reading)
    names = {"names": seen.names} if seen.names and len(set(seen.names)) == len(seen.names) else {}
    reading = names | reading
    transform = SeriesTransform(seen.channels.shape[1] or 1, **reading)
    parts = [_Sums(transform.channels), _Sums(1)] if transform.uneven else [_Sums(transform.channels)]
    grown, grows = 0, reading.get("times") is None and transform.channels > 1
    for row, cell in chain([first], cells):
        with _named(table, row, column):
            series = transform.steps(_value(table, cell))
            _require_alike(series.names, seen.names)
        steps = [series.channels]
        if series.seconds is not None:
            steps.append(np.log(np.diff(series.seconds))[:, None])
        for sums, numbers in zip(parts, steps, strict=True):
            sums.add(numbers)
        grows = grows and bool((np.diff(series.channels[:, 0]) > 0).all())
        grown += len(series.channels) - 1
    if grows and grown >= GROWN:
        _warn_of_times(table, column, seen.names)
    found: dict[str, Any] = {
        "channels": transform.channels,
        "mean": [number for sums in parts for number in sums.mean.tolist()],
        "std": [number for sums in parts for number in sums.std().tolist()],
    }
    return found | ({"reading": reading} if reading else {})


class _Sums:
    """Count, mean and sum of squared differences of each channel (Chan et al., 1979): nothing cancels out."""

    def __init__(self, channels: int) -> None:
        self.count, self.mean, self.squares = np.zeros((3, channels))

    def add(self, numbers: Any) -> None:
        """Take in the steps of a series ``(time, channel)``; NaN is none."""
        seen = ~np.isnan(numbers)
        count = seen.sum(axis=0)
        total = self.count + count
        share = count / np.maximum(total, 1)
        mean = np.where(seen, numbers, 0.0).sum(axis=0) / np.maximum(count, 1)
        apart = mean - self.mean
        squares = np.where(seen, np.square(numbers - mean), 0.0).sum(axis=0)
        self.squares = self.squares + squares + apart**2 * self.count * share
        self.mean = self.mean + apart * share
        self.count = total

    def std(self) -> Any:
        """1 for a constant, which rounding may have moved a little."""
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.where(std > 1e-12 * np.abs(self.mean), std, 1.0)


def _look(table: Table, row: int, cell: Any, column: str, reading: Mapping[str, Any]) -> Series:
    """The first series; DataError if nothing is said of a column that seems to hold times."""
    times, room = reading.get("times"), reading.get("max_bytes", MAX_BYTES)
    with _named(table, row, column):
        if times is not None:
            times = None if times is False else times
            return read_series(_value(table, cell), times, room, reading.get("names"))
        series, guess = read_guessing(_value(table, cell), room)
    if guess is not None:
        raise DataError(
            f"{table.name}: the series in column {column!r} have a column {guess!r}. Expected to be told whether it "
            f"holds the times of the steps. Give reading={{'times': {guess!r}}} if it does, and "
            "reading={'times': False} if it is a channel."
        )
    return series


def _require_alike(names: list[str] | None, first: list[str] | None) -> None:
    if names and not first:
        raise ValueError(
            f"The series has a header {names[:20]}, and the first of the table has none. Expected all or none, because "
            "columns are found by names or by place. Write them alike."
        )


def _warn_of_times(table: Table, column: str, names: list[str] | None) -> None:
    first = f"{names[0]!r}" if names else "0"
    warnings.warn(
        f"{table.name}: column {first} of the series in column {column!r} grows from step to step in all of them. Does "
        f"it hold their times? Give reading={{'times': {first}}} if so. It is a channel now, as "
        "with reading={'times': False}.",
        stacklevel=3,
    )


def _value(table: Table, cell: Any) -> Any:
    return table.path(cell) if isinstance(cell, str) else cell


@contextmanager
def _named(table: Table, row: int, column: str) -> Iterator[None]:
    """Adds the line and the column to what is wrong with a cell."""
    try:
        yield
    except (ValueError, OSError) as error:
        where = f"{place_of(table, row)}, column {column!r}, {str(table.cell(row, column))[:80]!r}"
        raise DataError(f"{where}: {error} Mend or empty the cell. inspect lists all such cells.") from error
