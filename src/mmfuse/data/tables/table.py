"""A table of samples: rows of cells, held by column."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfuse._checks import nearest
from mmfuse.data.errors import DataError
from mmfuse.data.tables.classes import classes_of, statistics_of
from mmfuse.data.tables.columns import Column, named_column
from mmfuse.data.tables.paths import safe_path
from mmfuse.data.tables.places import place_of
from mmfuse.data.tables.rows import Rows
from mmfuse.data.tables.split import parts_of


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """Rows of a table, made by :func:`read_table`. Nothing in it is a Python object for each row.

    A cell is text, a list, a number, an array, the bytes of a file, or None where it is empty. Arrays are not copied:
    whoever writes into one changes the table.
    """

    name: str
    root: Path  # what relative paths are relative to
    store: Mapping[str, Column]
    numbers: Tensor | None = None  # the line of each row of the store; None: rows are counted from 0
    outside: bool = False  # paths may leave the root
    chosen: Tensor | None = None  # which rows of the store these are, in this order; None: all

    def __len__(self) -> int:
        return len(next(iter(self.store.values()))) if self.chosen is None else len(self.chosen)

    def __repr__(self) -> str:
        return f"Table({self.name}: {len(self)} rows; columns {', '.join(self.columns)})"

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self.store)

    @property
    def rows(self) -> Rows:
        """The rows as mappings from column to cell, made when asked for."""
        return Rows(self)

    @property
    def lines(self) -> tuple[int, ...]:
        """Where each row stands in its file."""
        return tuple(self._lines(self._places()).tolist())

    def line(self, row: int) -> int:
        """Where a row stands in its file, for messages."""
        place = self._place(row)
        return place if self.numbers is None else int(self.numbers[place])

    def cell(self, row: int, column: str) -> Any:
        """One cell, None where it is empty."""
        return self._column(column).cell(self._place(row))

    def cells(self, rows: Iterable[int] | Tensor, column: str) -> list[Any]:
        """Some cells of a column, in the order of ``rows``."""
        return self._column(column).cells(self._places(rows))

    def column(self, name: str) -> list[Any]:
        """All cells of a column, top to bottom."""
        return self._column(name).cells(self._places())

    def distinct(self, column: str) -> tuple[list[Any], Tensor]:
        """The different cells of a column, and for each row which of them it has: (rows), -1 where it is empty."""
        return self._column(column).distinct(self._places())

    def array(self, column: str) -> Tensor | None:
        """A column that is held as one array, along whose first axis the rows lie; None for any other column."""
        whole = self._column(column).array()
        return whole if whole is None or self.chosen is None else whole[self.chosen]

    def path(self, cell: Any) -> Path:
        """The file that a cell names, below the folder of the table; it is not opened.

        Raises:
            ValueError: it is an address, leaves the folder, or is no file.
        """
        return safe_path(self.root, cell, outside=self.outside)

    def classes(self, name: str, *, separator: str | None = None) -> list[str]:
        """The different labels of a column in order: as numbers if all are, else as text. Take the training table's.

        Args:
            name: the column.
            separator: what stands between several labels in one cell.
        """
        cells = self.distinct(name)[0]
        if cells and hasattr(cells[0], "shape"):
            raise DataError(
                f"{self.name}: column {name!r} holds arrays of shape {tuple(cells[0].shape)}. Expected labels, or "
                "lists of their names. Where arrays say yes or no to each class, give MultiLabel the names yourself."
            )
        if labels := classes_of(cells, separator):
            return labels
        raise DataError(f"{self.name}: column {name!r} has no label. Expected at least one. Fill some cells.")

    def statistics(self, name: str) -> dict[str, float]:
        """Mean and standard deviation of a column of numbers, as ``Regression`` takes them: of the training table."""
        cells, codes = self.distinct(name)
        if not cells:
            raise DataError(f"{self.name}: column {name!r} has no number. Expected at least one. Fill some cells.")
        found, wrong = statistics_of(cells, codes)
        if wrong is not None:
            where = place_of(self, int((codes == wrong).nonzero()[0]))
            raise DataError(
                f"{where}: column {name!r} is not numeric: {cells[wrong]!r}. Expected numbers. "
                "Mend the cell, or leave it empty for an unknown label."
            )
        return found

    def take(self, indices: Iterable[int] | Tensor) -> "Table":
        """Some rows, in the order given."""
        return replace(self, chosen=self._places(indices))

    def with_column(self, name: str, cells: Sequence[Any]) -> "Table":
        """The same rows with one column more, or with other cells in one.

        For what stands beside a table: ``table.with_column("pulse", [f"{id}.csv" for id in table.column("id")])``.

        Args:
            name: of the column.
            cells: a cell for each row, None where it is empty.

        Raises:
            DataError: their number is another one, or a list among them holds a number that is not finite.
        """
        if len(cells) != len(self):
            raise DataError(
                f"{self.name}: column {name!r} got {len(cells)} cells. Expected {len(self)}, one for each row. "
                "Write None for an empty cell."
            )
        if self.chosen is not None:  # the others of the store have none
            every: list[Any] = [None] * len(next(iter(self.store.values())))
            for place, cell in zip(self.chosen.tolist(), cells, strict=True):
                every[place] = cell
            cells = every
        return replace(self, store={**self.store, name: named_column(self.name, name, cells)})

    def where(self, column: str, wanted: Any) -> "Table":
        """The rows whose cell in a column is wanted; a row with an empty cell never is.

        For splits that are given: ``table.where("split", "train")``, ``table.where("date", lambda day: day < "2015")``.

        Args:
            column: the name.
            wanted: the cell as text, or a function that is true of the cells to keep.
        """
        cells, codes = self.distinct(column)
        test: Callable[[Any], bool] = wanted if callable(wanted) else lambda cell: str(cell) == str(wanted)
        kept = torch.tensor([*map(bool, map(test, cells)), False])  # the last: of -1
        if not kept.any():
            shown = "cell for which the function is true" if callable(wanted) else repr(wanted)
            raise DataError(
                f"{self.name}: column {column!r} has no {shown}. Expected one such as {list(map(str, cells[:5]))}."
                f"{nearest(str(wanted), [str(cell) for cell in cells[:1000]])} Check the spelling."
            )
        return self.take(kept[codes].nonzero().flatten())

    def split(self, *shares: float, seed: int = 0, group: str | None = None) -> tuple["Table", ...]:
        """Several tables without a row in common, at random.

        Args:
            shares: the share of each, adding up to 1, for example ``0.8, 0.1, 0.1``.
            seed: of the order.
            group: a column; rows with the same cell in it stay together (one speaker, one patient).
        """
        keys = None if group is None else self.distinct(group)
        parts = parts_of(len(self), keys, shares, seed)
        if empty := [i for i, part in enumerate(parts) if not len(part)]:
            what = f"{len(self)} rows" if group is None else f"the groups of column {group!r}"
            raise DataError(
                f"{self.name}: {what} cannot be split into {shares}: part {empty[0]} would be empty. Expected a row in "
                "each. Give larger shares, or add rows."
            )
        return tuple(self.take(part) for part in parts)

    def require_column(self, name: str) -> None:
        """Raise DataError, with the nearest name, unless there is such a column."""
        if name not in self.store:
            shown = [*self.columns[:20], *["..."] * (len(self.store) > 20)]
            raise DataError(
                f"{self.name} has no column {name!r}. Expected one of {shown}."
                f"{nearest(name, self.columns)} "
                f"Or say where it stands: read_table(..., columns={{{name!r}: 'its name'}}), with None for its name "
                "if this table has none."
            )

    def _column(self, name: str) -> Column:
        self.require_column(name)
        return self.store[name]

    def _lines(self, places: Tensor) -> Tensor:
        return places if self.numbers is None else self.numbers[places]

    def _place(self, row: int) -> int:
        """Where a row is in the store."""
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.name} has rows 0 to {len(self) - 1}. Got {row}.")
        return row % len(self) if self.chosen is None else int(self.chosen[row])

    def _places(self, rows: Iterable[int] | Tensor | None = None) -> Tensor:
        """Where some rows, or all, are in the store."""
        if rows is None:
            return torch.arange(len(self)) if self.chosen is None else self.chosen
        places = rows if isinstance(rows, Tensor) else _numbers(rows)
        size = len(self)
        if places.dtype not in _INTEGERS or places.dim() != 1:
            raise TypeError(
                f"{self.name}: rows are chosen by a {places.dtype} tensor with {places.dim()} axes. Expected a list of "
                "their numbers. Use mask.nonzero().flatten() of a mask."
            )
        if len(places) and not (-size <= int(places.min()) and int(places.max()) < size):
            raise IndexError(f"{self.name} has rows 0 to {size - 1}. Got {places.min()} to {places.max()}.")
        places = places.long() % size if len(places) else places.long()  # -1 is the last
        return places if self.chosen is None else self.chosen[places]


_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def _numbers(rows: Iterable[int]) -> Tensor:
    """Numbers of rows as a tensor; of another type if they are none, such as a mask."""
    numbers = list(rows)
    if set(map(type, numbers)) <= {int}:
        return torch.tensor(numbers, dtype=torch.int64)
    array = np.array(numbers)
    return torch.as_tensor(array.astype(np.int64) if array.dtype.kind == "u" else array)
