"""The cells of one modality as tensors: single values, whole batches, or rows of an array."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmfuse.contracts import Input
from mmfuse.data.loading.seeding import Seeded
from mmfuse.data.tables.table import Table
from mmfuse.data.transforms import Transform
from mmfuse.data.transforms._made import require_tensor

_AT_ONCE = 64  # rows that are looked at together

Fail = Callable[[int, Exception], None]  # what to do with the row at this place of the batch


class Values(NamedTuple):
    """One modality of some rows: a tensor of all, one a row (None where it is absent), or the whole input."""

    tensors: Tensor | list[Tensor | None] | Input
    lost: list[int] | None = None  # steps that were cut off of each
    finite: bool = False  # known to hold no NaN and no infinity


class _Lost(NamedTuple):
    """In the place of a value that could not be found."""

    error: Exception


def reader_of(table: Table, name: str, transform: Any, *, cache: bool, seed: int) -> "CellReader":
    """What reads a modality of a table: the transform's own reader, if it brings one."""
    if hasattr(transform, "reader"):
        return transform.reader(table, name)
    return CellReader(table, name, transform, cache=cache, seed=seed)


class CellReader:
    """Reads one modality of a table.

    Args:
        table: the rows.
        name: the modality.
        transform: what makes a tensor of a cell.
        cache: keep what was read, by its cell; not where the transform is random.
        seed: of what is random.
    """

    def __init__(self, table: Table, name: str, transform: Transform, *, cache: bool, seed: int) -> None:
        several = getattr(transform, "columns", None)
        self.columns: tuple[str, ...] = (name,) if several is None else tuple(several)
        for column in self.columns:
            table.require_column(column)
        self._name = name
        self._several = several is not None
        self._table = table
        self._stores = [table.store[column] for column in self.columns]
        self._transform: Any = transform
        self._seed = seed
        self._cache: dict[str, tuple[Tensor, int]] | None = {} if cache and not transform.random else None
        whole = hasattr(transform, "whole") and not transform.random and not self._several
        # Not table.array: of some rows of a table that would be a copy.
        self._array = table.store[name].array() if whole else None
        self._by_batch = hasattr(transform, "batch")

    def read(self, rows: Tensor, epoch: int, fail: Fail, mark: Any) -> Values:
        """The tensors of some rows. ``mark[0]`` is set to each row before it is read."""
        if self._array is not None:
            whole = self._read_whole(self._array, rows)
            if whole is not None:
                return Values(whole)
        numbers = rows.tolist()
        cells = self._cells(rows)
        found = self._read_together(cells, numbers, mark) if self._by_batch and not self._transform.random else None
        found = self._read_each(cells, numbers, epoch, fail, mark) if found is None else found
        return found._replace(finite=getattr(self._transform, "finite", False))

    def has_any(self) -> bool:
        """Whether any row has this modality at all."""
        if self._array is not None:
            return bool(len(self._array))
        rows = torch.arange(len(self._table))
        # Few at a time: cells may be pictures, and most often the first of them is one already.
        return any(cell is not None for some in rows.split(_AT_ONCE) for cell in self._cells(some))

    def lengths(self) -> Any:
        """Steps of the tensor of every row, told without decoding it: int64 (row,); 0 where absent or unreadable.

        Raises:
            ValueError: the transform has no ``lengths``, and cells are no arrays.
        """
        rows = torch.arange(len(self._table))
        if self._array is not None and self._array.dim() > 1:
            return np.full(len(rows), self._array.shape[1])
        found = [length for some in rows.split(_AT_ONCE) for length in self._lengths(self._cells(some))]
        return np.array(found, dtype=np.int64)

    def content(self, row: int) -> str:
        """The cell of a row as text, for messages: a path or a short text."""
        cells = [self._table.cell(row, column) for column in self.columns]
        return " ".join(cell if len(cell) <= 200 else f"{cell[:197]}..." for cell in cells if isinstance(cell, str))

    def where(self, row: int) -> str:
        """The files of a row, for messages, if it has any."""
        content = self.content(row)
        return f" file {content}:" if self._transform.takes_path and content else ""

    def _lengths(self, cells: Sequence[Any]) -> list[int]:
        values = [self._value(cell) for cell in cells if cell is not None]
        if hasattr(self._transform, "lengths"):
            known = iter(_each(self._transform.lengths, values))
        elif all(hasattr(value, "shape") or isinstance(value, list) for value in values):
            known = iter([len(value) for value in values])
        else:
            raise ValueError(
                f"bucket_by: {type(self._transform).__name__} of {self._name!r} cannot tell how long a cell is without "
                "reading it. Expected lengths(values), or cells that are arrays. Give a column of numbers: "
                "table.with_column('length', numbers), bucket_by='length'."
            )
        return [0 if cell is None else next(known) for cell in cells]

    def _cells(self, rows: Tensor) -> Sequence[Any]:
        places = self._places(rows)
        if not self._several:
            return self._stores[0].cells(places)
        columns = [store.cells(places) for store in self._stores]
        mappings = (dict(zip(self.columns, cells, strict=True)) for cells in zip(*columns, strict=True))
        return [None if all(cell is None for cell in cells.values()) else cells for cells in mappings]

    def _places(self, rows: Tensor) -> Tensor:
        """Where rows of the table are in its columns. They are known to exist: the table would look again."""
        return rows if self._table.chosen is None else self._table.chosen[rows]

    def _value(self, cell: Any) -> Any:
        """What the transform gets: paths are resolved."""
        if not self._transform.takes_path:
            return cell
        if self._several:
            return {name: self._path(part) for name, part in cell.items()}
        return self._path(cell)

    def _path(self, cell: Any) -> Path | Any:
        return self._table.path(cell) if isinstance(cell, str) else cell

    def _read_whole(self, array: Tensor, rows: Tensor) -> Tensor | None:
        try:
            return require_tensor(self._transform.whole(array.index_select(0, self._places(rows))))
        except Exception:
            return None  # one by one, to find the row

    def _read_together(self, cells: Sequence[Any], rows: list[int], mark: Any) -> Values | None:
        """All values in one call; None where it fails: one by one, to find the row."""
        known = {} if self._cache is None else {i: self._cache[c] for i, c in enumerate(cells) if self._is_cached(c)}
        wanted = [i for i, cell in enumerate(cells) if cell is not None and i not in known]
        mark[0] = rows[0]
        try:
            tensors, lost = self._transform.batch([self._value(cells[i]) for i in wanted]) if wanted else ([], [])
            for tensor in tensors:
                require_tensor(tensor)
        except Exception:
            return None
        for i, tensor, steps in zip(wanted, tensors, lost, strict=True):
            known[i] = tensor, int(steps)
            self._keep(cells[i], known[i])
        return _as_values([known.get(i) for i in range(len(cells))])

    def _read_each(self, cells: Sequence[Any], rows: list[int], epoch: int, fail: Fail, mark: Any) -> Values:
        found: list[tuple[Tensor, int] | None] = []
        # All before the first is decoded: between two pictures it takes four times as long.
        values = [self._found(cell, row, mark) for row, cell in zip(rows, cells, strict=True)]
        torch_only = getattr(self._transform, "torch_only", False)
        with Seeded(enabled=self._transform.random, torch_only=torch_only) as generators:
            for place, (row, cell) in enumerate(zip(rows, cells, strict=True)):
                mark[0] = row
                generators.seed(self._seed, epoch, row, self._name)
                found.append(None if cell is None else self._read_one(cell, values[place], place, fail))
        return _as_values(found)

    def _found(self, cell: Any, row: int, mark: Any) -> Any:
        """What the transform gets, or the error that is to be told once it is this row's turn."""
        mark[0] = row
        if cell is None or self._is_cached(cell):
            return None
        try:
            return self._value(cell)
        except Exception as error:
            return _Lost(error)

    def _read_one(self, cell: Any, value: Any, place: int, fail: Fail) -> tuple[Tensor, int] | None:
        if self._is_cached(cell):
            return self._cache[cell]  # type: ignore[index]
        try:
            if isinstance(value, _Lost):
                raise value.error
            if self._by_batch:
                tensors, lost = self._transform.batch([value])
                made = require_tensor(tensors[0]), int(lost[0])
            else:
                made = require_tensor(self._transform(value)), 0
        except Exception as error:
            fail(place, error)
            return None
        self._keep(cell, made)
        return made

    def _is_cached(self, cell: Any) -> bool:
        return self._cache is not None and isinstance(cell, str) and cell in self._cache

    def _keep(self, cell: Any, made: tuple[Tensor, int]) -> None:
        if self._cache is not None and isinstance(cell, str):
            self._cache[cell] = made


def _each(lengths: Callable[[list[Any]], list[int]], values: list[Any]) -> list[int]:
    """The length of each value; 0 where it cannot be read: that is said of its row when it is read."""
    try:
        return list(lengths(values))
    except Exception:
        return [0] * len(values) if len(values) == 1 else [_each(lengths, [value])[0] for value in values]


def _as_values(found: Sequence[tuple[Tensor, int] | None]) -> Values:
    lost = [0 if made is None else made[1] for made in found]
    return Values([None if made is None else made[0] for made in found], lost if any(lost) else None)
