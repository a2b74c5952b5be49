"""Cells that stay the Python objects that they are: pictures, pairs of sound and rate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmfuse.data.tables.columns.arrays import all_distinct


class ObjectColumn:
    """Anything at all; every worker has its own copy of what is not a tensor."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def cell(self, row: int) -> Any:
        return self.values[row]

    def cells(self, rows: Tensor) -> list[Any]:
        return [self.values[row] for row in rows.tolist()]

    def distinct(self, rows: Tensor) -> tuple[list[Any], Tensor]:
        return distinct_cells(self.cells(rows))

    def array(self) -> None:
        return None


def distinct_cells(cells: list[Any]) -> tuple[list[Any], Tensor]:
    """The different cells and the number of each, -1 where it is None; what cannot be compared is different."""
    numbers: dict[Any, int] = {}
    try:
        codes = [-1 if cell is None else numbers.setdefault((type(cell), cell), len(numbers)) for cell in cells]
    except TypeError:  # lists and arrays
        return all_distinct(cells)
    return [cell for _, cell in numbers], torch.tensor(codes, dtype=torch.int64)
