"""A cell that holds a time series -> its channels, and the seconds of its steps where it has them."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from mmfuse._checks import nearest
from mmfuse.data.transforms._arrays import read_array, read_columns
from mmfuse.data.transforms._series_checks import require_columns
from mmfuse.data.transforms._time_stamps import as_seconds, from_datetime64

# What a column of times is called, with or without a unit: "time", "Timestamp", "time_s", "time (ms)".
TIME_NAME = re.compile(
    r"(t|times?|timestamps?|datetimes?|dates?|date[ _]time|milliseconds|seconds|secs?|minutes|hours|days)"
    r"([ _]?[(\[]?(s|ms|us|ns|sec|seconds|min|minutes|h|hours|utc)[)\]]?)?",
    re.IGNORECASE,
)


class Series(NamedTuple):
    """What stands in a cell."""

    channels: Any  # float64 (time, channel)
    seconds: Any = None  # float64 (time,), or None
    names: list[str] | None = None  # of the channels, where it is a table with a header


def read_series(value: Any, times: int | str | None, max_bytes: int, names: Sequence[str] | None = None) -> Series:
    """The channels and the seconds of a cell; a series of one channel may have one axis.

    Args:
        value: what :func:`read_array` takes, or a mapping from names to such values.
        times: where the seconds stand: the number of a column, or the name of an array, a column or a key; or None.
        max_bytes: largest size of an array.
        names: of the channels, in this order, where the columns of the cell have names; None: as they stand there.

    Raises:
        ValueError: there are no numbers, no such times, or the axes are others.
    """
    if isinstance(value, Mapping):
        return _of_mapping(value, times, max_bytes)
    if isinstance(times, str) and not _is_file(value):
        raise ValueError(
            f"The series is a {type(value).__name__}, which has no names, and its times should be {times!r}. Expected "
            "a mapping, an .npz file, or a table with a header. Give the number of a column as times."
        )
    if isinstance(times, str) and (arrays := _arrays_of(value, times, max_bytes)) is not None:
        return _beside(*arrays)
    array, columns, stamped = read_columns(value, max_bytes=max_bytes)
    series = _split(_two_axes(array), columns, stamped, times)
    return series if names is None or series.names is None else _in_order(series, list(names))


def read_guessing(value: Any, max_bytes: int) -> tuple[Series, int | str | None]:
    """A cell of which nothing is known, and the column that seems to hold its times: by its name or what is in it."""
    if not _is_file(value):
        return read_series(value, None, max_bytes), None
    array, columns, stamped = read_columns(value, max_bytes=max_bytes)
    named = stamped + [i for i, name in enumerate(columns or []) if TIME_NAME.fullmatch(name)]
    if not named:
        return Series(_two_axes(array), None, columns), None
    times = columns[named[0]] if columns else named[0]
    return _split(_two_axes(array), columns, stamped, times), times


def _of_mapping(value: Mapping[str, Any], times: int | str | None, max_bytes: int) -> Series:
    if not isinstance(times, str):
        raise ValueError(
            f"The series is a mapping with {sorted(map(str, value))[:5]}. Expected one array. "
            "Say which of them holds the seconds: times='its name'."
        )
    if times not in value:
        raise ValueError(
            f"The series has no {times!r}, only {sorted(map(str, value))[:20]}. Expected its times "
            f"under this name.{nearest(times, list(map(str, value)))} Name them so, or give another name as times."
        )
    channels = read_array(value[_other(list(value), times)], max_bytes=max_bytes)
    return _beside(_seconds(value[times], max_bytes), channels)


def _seconds(times: Any, max_bytes: int) -> Any:
    """Times that stand by themselves: numbers, or points of time."""
    if isinstance(times, list | tuple) and any(isinstance(cell, str) for cell in times):
        return as_seconds(times)
    if isinstance(times, np.ndarray) and times.dtype.kind == "M":
        return from_datetime64(times)
    return read_array(times, max_bytes=max_bytes)


def _beside(seconds: Any, channels: Any) -> Series:
    if seconds.shape != channels.shape[:1]:
        raise ValueError(
            f"The series has times of shape {seconds.shape} for {len(channels)} steps. Expected one number a step. "
            "Write both from one source."
        )
    return Series(_two_axes(channels), seconds.astype(np.float64))


def _is_file(value: Any) -> bool:
    return isinstance(value, str | bytes | bytearray | memoryview) or hasattr(value, "__fspath__")


def _arrays_of(value: Any, times: str, max_bytes: int) -> tuple[Any, Any] | None:
    """The times and the channels of an .npz file; None for another file."""
    source = value if isinstance(value, str) or hasattr(value, "__fspath__") else BytesIO(bytes(value))
    if not zipfile.is_zipfile(source):
        return None
    seconds = read_array(value, key=times, max_bytes=max_bytes)  # checks the file as well
    with zipfile.ZipFile(source) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    return seconds, read_array(value, key=_other(names, times), max_bytes=max_bytes)


def _other(names: list[str], times: str) -> str:
    others = [name for name in names if name != times]
    if len(others) != 1:
        raise ValueError(
            f"The series has the arrays {others[:20]} beside {times!r}. Expected one, with the channels side by side. "
            "Stack them: np.savez(file, times=times, values=values)."
        )
    return others[0]


def _split(array: Any, names: list[str] | None, stamped: list[int], times: int | str | None) -> Series:
    """Channels and times of a table of columns."""
    at = None if times is None else _place(times, names, array.shape[1])
    if points := [i for i in stamped if i != at]:
        which = names[points[0]] if names else points[0]
        raise ValueError(
            f"Column {which!r} of the series holds points of time. Expected numbers. If they are the times of the "
            f"steps, say so: reading={{'times': {which!r}}}. Leave the column out otherwise."
        )
    if at is None:
        return Series(array, None, names)
    return Series(np.delete(array, at, axis=1), array[:, at], names and names[:at] + names[at + 1 :])


def _place(times: int | str, names: list[str] | None, width: int) -> int:
    """The number of the column of the times, from 0."""
    if isinstance(times, str):
        require_columns(names or [], [times], "the times of the steps")
        return (names or []).index(times)
    if not -width <= times < width:
        raise ValueError(
            f"The series has {width} columns, and its times should be column {times}. Expected a number from 0 to "
            f"{width - 1}. Give the column of the seconds as times."
        )
    return times % width


def _in_order(series: Series, names: list[str]) -> Series:
    """The channels of a table, by their names."""
    found = series.names or []
    require_columns(found, names, "a channel of the training data")
    if others := [name for name in found if name not in names]:
        raise ValueError(
            f"The series has a column {others[0]!r}, which is no channel of the training data: they are {names[:20]}. "
            "Expected these alone, in any order. Leave the column out of the file, or rename it."
        )
    if len(found) != len(names):
        raise ValueError(
            f"The series has columns {found[:20]}. Expected each of {names[:20]} once. Rename those that occur twice."
        )
    return series._replace(channels=series.channels[:, [found.index(name) for name in names]], names=names)


def _two_axes(array: Any) -> Any:
    if array.ndim not in (1, 2):
        raise ValueError(
            f"The series has shape {array.shape}. Expected (time, channel), or (time,) for one channel. "
            "Flatten the other axes into channels: array.reshape(len(array), -1)."
        )
    return (array[:, None] if array.ndim == 1 else array).astype(np.float64)
