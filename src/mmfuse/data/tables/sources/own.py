"""A user's own Dataset, read one row at a time and only when asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfuse.data.errors import DataError
from mmfuse.data.tables.columns.objects import distinct_cells
from mmfuse.data.tables.columns.packed import is_missing
from mmfuse.data.tables.sources.source import Source

_AT_ONCE = 256  # rows; more than most batches have


def read_dataset(dataset: Any) -> Source:
    """Anything with ``__len__`` and ``__getitem__``, whose items are mappings from column to cell, all with one key."""
    name = f"the {type(dataset).__name__}"
    if len(dataset) == 0:
        return Source(name, Path.cwd(), {})
    rows = _Rows(name, dataset)
    rows.names = tuple(rows.read(0))
    return Source(name, Path.cwd(), {column: OwnColumn(rows, column) for column in rows.names})


class OwnColumn:
    """One key of the items. A whole column, such as the labels, is ``dataset.column(name)`` if there is one."""

    def __init__(self, rows: "_Rows", name: str) -> None:
        self.rows = rows
        self.name = name

    def __len__(self) -> int:
        return len(self.rows.dataset)

    def cell(self, row: int) -> Any:
        return self.rows.cells([row], self.name)[0]

    def cells(self, rows: Tensor) -> list[Any]:
        if len(rows) == len(self) and (whole := self._whole()) is not None:
            return [_cell(whole[row]) for row in rows.tolist()]
        return [cell for some in rows.split(_AT_ONCE) for cell in self.rows.cells(some.tolist(), self.name)]

    def distinct(self, rows: Tensor) -> tuple[list[Any], Tensor]:
        whole = self._whole()
        return distinct_cells(self.cells(rows) if whole is None else [_cell(whole[row]) for row in rows.tolist()])

    def _whole(self) -> Any:
        """Never for a few rows: it may be made anew each time."""
        return self.rows.dataset.column(self.name) if hasattr(self.rows.dataset, "column") else None

    def array(self) -> None:
        return None


class _Rows:
    """Items as rows. Those last asked for are kept until each of their columns was asked for once.

    So an item is read once although its columns are taken one after the other, and anew in the next epoch.
    """

    def __init__(self, name: str, dataset: Any) -> None:
        self.name = name
        self.dataset = dataset
        self.names: tuple[str, ...] | None = None
        self._kept: dict[int, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": {}}

    def cells(self, rows: list[int], column: str) -> list[Any]:
        """One column of some items."""
        if any(column not in self._kept.get(row, {}) for row in rows):
            self._kept = {row: self.read(row) for row in rows}
        found = [self._kept[row][column] for row in rows]
        for row in rows:
            self._kept[row].pop(column, None)
        return found

    def read(self, row: int) -> dict[str, Any]:
        """An item of the dataset."""
        try:
            item = self.dataset[row]
        except Exception as error:
            raise DataError(f"Item {row} of {self.name} cannot be read: {type(error).__name__}: {error}") from error
        if not isinstance(item, Mapping):
            raise DataError(
                f"Item {row} of {self.name} is a {type(item).__name__}. Expected a mapping from column to cell. "
                "Wrap the dataset in one whose __getitem__ gives {'image': picture, 'label': 'cat'}."
            )
        cells = {str(name): _cell(value) for name, value in item.items()}
        if self.names is not None and set(cells) != set(self.names):
            raise DataError(
                f"Item {row} of {self.name} has {sorted(cells)}. Expected {sorted(self.names)}, as item 0 has. "
                "Give every item the same keys, None where there is nothing."
            )
        return cells


def _cell(value: Any) -> Any:
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    single = isinstance(value, np.generic) or (isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 0)
    return value.item() if single else value
