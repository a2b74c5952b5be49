"""A cell that holds a time series -> its channels, and the seconds of its steps where it has them."""

import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np

from mmfuse._checks import nearest
from mmfuse.data.transforms._arrays import read_array

Series = tuple[Any, Any]  # float64 (time, channel), and float64 (time,) or None


def read_series(value: Any, times: int | str | None, max_bytes: int) -> Series:
    """The channels and the seconds of a cell; a series of one channel may have one axis.

    Args:
        value: what :func:`read_array` takes, or a mapping from names to such values.
        times: where the seconds stand: the number of a column, or the name of an array, a column or a key; or None.
        max_bytes: largest size of an array.

    Raises:
        ValueError: there are no numbers, no such times, or the axes are others.
    """
    if isinstance(times, str):
        return _by_name(value, times, max_bytes)
    if isinstance(value, Mapping):
        raise ValueError(
            f"The series is a mapping with {sorted(map(str, value))[:5]}. Expected one array. "
            "Say which of them holds the seconds: times='its name'."
        )
    array = _two_axes(read_array(value, max_bytes=max_bytes))
    return (array, None) if times is None else _split(array, times)


def _by_name(value: Any, times: str, max_bytes: int) -> Series:
    """The times, and the one array, or the columns, beside them."""
    if isinstance(value, Mapping):
        if times not in value:
            raise ValueError(
                f"The series has no {times!r}, only {sorted(map(str, value))[:20]}. Expected its times in seconds "
                f"under this name.{nearest(times, list(map(str, value)))} Name them so, or give another name as times."
            )
        seconds = read_array(value[times], max_bytes=max_bytes)
        channels = read_array(value[_other(list(value), times)], max_bytes=max_bytes)
    elif not _has_names(value):
        raise ValueError(
            f"The series is a {type(value).__name__}, which has no names, and its times should be {times!r}. Expected "
            "a mapping, an .npz file, or a table with a header. Give the number of a column as times."
        )
    else:
        seconds = read_array(value, key=times, max_bytes=max_bytes)  # checks the file as well
        names = _arrays_of(value)
        if names is None:  # a table: all columns, of which one holds the times
            table = _two_axes(read_array(value, max_bytes=max_bytes))
            return _split(table, [np.array_equal(c, seconds, equal_nan=True) for c in table.T].index(True))
        channels = read_array(value, key=_other(names, times), max_bytes=max_bytes)
    if seconds.shape != channels.shape[:1]:
        raise ValueError(
            f"The series has times of shape {seconds.shape} for {len(channels)} steps. Expected one number a step. "
            "Write both from one source."
        )
    return _two_axes(channels), seconds.astype(np.float64)


def _has_names(value: Any) -> bool:
    return isinstance(value, str | bytes | bytearray | memoryview) or hasattr(value, "__fspath__")


def _arrays_of(value: Any) -> list[str] | None:
    """The names of the arrays in an .npz file; None for another file."""
    source = value if isinstance(value, str) or hasattr(value, "__fspath__") else BytesIO(bytes(value))
    if not zipfile.is_zipfile(source):
        return None
    with zipfile.ZipFile(source) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _other(names: list[str], times: str) -> str:
    others = [name for name in names if name != times]
    if len(others) != 1:
        raise ValueError(
            f"The series has the arrays {others[:20]} beside {times!r}. Expected one, with the channels side by side. "
            "Stack them: np.savez(file, times=times, values=values)."
        )
    return others[0]


def _split(array: Any, column: int) -> Series:
    width = array.shape[1]
    if not -width <= column < width:
        raise ValueError(
            f"The series has {width} columns, and its times should be column {column}. Expected a number from 0 to "
            f"{width - 1}. Give the column of the seconds as times."
        )
    return np.delete(array, column, axis=1), array[:, column]


def _two_axes(array: Any) -> Any:
    if array.ndim not in (1, 2):
        raise ValueError(
            f"The series has shape {array.shape}. Expected (time, channel), or (time,) for one channel. "
            "Flatten the other axes into channels: array.reshape(len(array), -1)."
        )
    return (array[:, None] if array.ndim == 1 else array).astype(np.float64)
