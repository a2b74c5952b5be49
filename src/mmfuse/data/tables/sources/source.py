"""What a source hands to the table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mmfuse.data.errors import DataError
from mmfuse.data.tables.columns import Column


@dataclass(frozen=True)
class Source:
    """The columns of a table, all of one length, and where their rows stand."""

    name: str
    root: Path  # what relative paths are relative to
    columns: Mapping[str, Column]
    lines: Tensor | None = None  # (rows); the line of each row in its file. None: rows are counted from 0


def require_different(name: str, header: Sequence[str], place: str = "") -> None:
    """Raise DataError if two columns have one name."""
    if twice := sorted(column for column, count in Counter(header).items() if count > 1):
        places = [i + 1 for i, column in enumerate(header) if column == twice[0]]
        raise DataError(
            f"{name}{place} has columns of one name: {twice} (columns {places}). Expected different names. Rename them."
        )
