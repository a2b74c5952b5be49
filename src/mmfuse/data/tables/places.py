"""Where rows stand, for messages: files are counted by lines, what is in memory by rows."""

from collections.abc import Sequence
from typing import Any


def place_of(table: Any, *rows: int, more: int = 0) -> str:
    """``x.csv line 12``, ``x.csv lines 2, 3 and 5 more``, ``row 0 of the list``."""
    plural = "s" if len(rows) + more > 1 else ""
    shown = [str(table.line(row)) for row in rows]
    numbers = " and ".join(shown) if len(shown) == 2 and not more else ", ".join(shown)
    numbers += f" and {more} more" if more else ""
    return f"row{plural} {numbers} of {table.name}" if table.numbers is None else f"{table.name} line{plural} {numbers}"


def first_places(table: Any, rows: Sequence[int]) -> str:
    """The places of the first five of some rows, and how many more there are."""
    return place_of(table, *rows[:5], more=max(0, len(rows) - 5))
