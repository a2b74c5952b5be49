"""A user's own Dataset, read one row at a time and only when asked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfuse.data.columns.objects import distinct_cells
from mmfuse.data.columns.packed import is_missing
from mmfuse.data.errors import DataError
from mmfuse.data.sources.source import Source


def read_dataset(dataset: Any) -> Source:
    """Anything with ``__len__`` and ``__getitem__``, whose items are mappings from column to cell, all with one key."""
    name = f"the {type(dataset).__name__}"
    if len(dataset) == 0:
        return Source(name, Path.cwd(), {})
    rows = _Rows(name, dataset)
    rows.names = tuple(rows[0])
    return Source(name, Path.cwd(), {column: OwnColumn(rows, column) for column in rows.names})


class OwnColumn:
    """One key of the items. Labels are read at once: by ``dataset.column(name)`` if there is one, else item by item."""

    def __init__(self, rows: "_Rows", name: str) -> None:
        self.rows = rows
        self.name = name

    def __len__(self) -> int:
        return len(self.rows.dataset)

    def cell(self, row: int) -> Any:
        return self.rows[row][self.name]

    def cells(self, rows: Tensor) -> list[Any]:
        if len(rows) > 1 and hasattr(self.rows.dataset, "column"):
            whole = self.rows.dataset.column(self.name)
            if whole is not None:
                return [_cell(whole[row]) for row in rows.tolist()]
        return [self.rows[row][self.name] for row in rows.tolist()]

    def distinct(self, rows: Tensor) -> tuple[list[Any], Tensor]:
        return distinct_cells(self.cells(rows))

    def array(self) -> None:
        return None


class _Rows:
    """Items as rows. The last one is kept: its columns are asked for one after the other."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.name = name
        self.dataset = dataset
        self.names: tuple[str, ...] | None = None
        self._last: tuple[int, dict[str, Any]] | None = None

    def __getitem__(self, row: int) -> dict[str, Any]:
        if self._last is None or self._last[0] != row:
            self._last = row, self._read(row)
        return self._last[1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_last": None}

    def _read(self, row: int) -> dict[str, Any]:
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
