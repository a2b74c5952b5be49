"""A table as a sequence of mappings from column to cell."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_AT_ONCE = 4096  # rows


class Rows(Sequence[Mapping[str, Any]]):
    """Rows of a table, made when asked for."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return Rows(self.table.take(range(*row.indices(len(self)))))
        return {name: self.table.cell(row, name) for name in self.table.columns}

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for first in range(0, len(self), _AT_ONCE):
            some = range(first, min(first + _AT_ONCE, len(self)))
            cells = [self.table.cells(some, name) for name in self.table.columns]
            for row in zip(*cells, strict=True):
                yield dict(zip(self.table.columns, row, strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Rows, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(mine == yours for mine, yours in zip(self, other, strict=True))
