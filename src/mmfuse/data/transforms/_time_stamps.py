"""Points of time, such as 2024-01-01 00:00:00 -> seconds since the first of them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np


def is_stamp(cell: str) -> bool:
    """Whether a cell is a date, or a date and a time, as ISO 8601 writes them."""
    try:
        _parse(cell)
    except ValueError:
        return False
    return True


def seconds_after(first: str) -> Callable[[str], float]:
    """What turns a cell into the seconds after the first one, exact to a microsecond; an empty one, "nan", into NaN."""
    start = _parse(first)

    def seconds(cell: str) -> float:
        cell = cell.strip()
        try:
            return float("nan") if cell == "nan" else (_parse(cell) - start).total_seconds()
        except ValueError:
            raise _no_stamp(cell) from None
        except TypeError:  # only one of them says its time zone
            raise ValueError(
                f"The times are {first!r} and {cell!r}: one has a time zone, the other has none. Expected one of "
                "the two. Write all times alike."
            ) from None

    return seconds


def as_seconds(cells: Sequence[str | None]) -> Any:
    """Points of time as float64 seconds since the first; None is NaN.

    Raises:
        ValueError: one is no point of time, or the first is not known.
    """
    first = str(cells[0])
    if not is_stamp(first):
        raise _no_stamp(first)
    read = seconds_after(first)
    return np.array([float("nan") if cell is None else read(cell) for cell in cells], dtype=np.float64)


def _no_stamp(cell: str) -> ValueError:
    return ValueError(
        f"The times hold {cell[:40]!r}. Expected points of time such as '2024-01-01 00:00:00', as is the first, or "
        "else numbers. Write it so."
    )


def from_datetime64(times: Any) -> Any:
    """The same of an array of datetime64; NaT is NaN."""
    return (times - times[:1]) / np.timedelta64(1, "s")


def _parse(cell: str) -> datetime:
    if cell[:4].isdigit() and cell[4:5] == "-":
        return datetime.fromisoformat(cell[:-1] + "+00:00" if cell[-1] in "zZ" else cell)
    raise ValueError
