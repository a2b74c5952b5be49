"""Cells that are numbers: one array for the whole column."""

from typing import Any

import torch
from torch import Tensor


class ArrayColumn:
    """Numbers, or arrays of one shape: row ``i`` is ``values[i]``.

    Args:
        values: (rows, ...).
        known: (rows); False where the cell is empty. None: nowhere, but a number that is NaN is an empty cell.
        numpy: cells are numpy arrays and not tensors. A single number is a number of Python.
    """

    def __init__(self, values: Tensor, known: Tensor | None = None, *, numpy: bool = False) -> None:
        if values.dim() == 1 and values.is_floating_point() and bool((nan := values.isnan()).any()):
            known = ~nan if known is None else known & ~nan
        self.values = values
        self.known = None if known is None or bool(known.all()) else known
        self.numpy = numpy

    def __len__(self) -> int:
        return len(self.values)

    def cell(self, row: int) -> Any:
        if self.known is not None and not self.known[row]:
            return None
        return self.values[row].item() if self.values.dim() == 1 else _given(self.values[row], self.numpy)

    def cells(self, rows: Tensor) -> list[Any]:
        if self.values.dim() == 1:
            cells = self.values[rows].tolist()
        else:
            cells = [_given(self.values[row], self.numpy) for row in rows.tolist()]
        if self.known is None:
            return cells
        return [cell if known else None for cell, known in zip(cells, self.known[rows].tolist(), strict=True)]

    def distinct(self, rows: Tensor) -> tuple[list[Any], Tensor]:
        if self.values.dim() > 1:
            return all_distinct(self.cells(rows))
        found, codes = self.values[rows].unique(return_inverse=True)
        if self.known is not None:
            known = self.known[rows]
            kept = torch.zeros(len(found), dtype=torch.bool).index_put((codes[known],), torch.tensor(True))
            codes = torch.where(known, (kept.cumsum(0) - 1)[codes], -1)
            found = found[kept]
        return found.tolist(), codes

    def array(self) -> Tensor | None:
        return self.values if self.known is None else None


class RaggedColumn:
    """Arrays of unequal length: row ``i`` is ``values[bounds[i]:bounds[i + 1]]``.

    Args:
        values: (all steps, ...).
        bounds: (rows + 1).
        known: (rows); False where the cell is empty; None: nowhere.
        numpy: cells are numpy arrays and not tensors.
    """

    def __init__(self, values: Tensor, bounds: Tensor, known: Tensor | None = None, *, numpy: bool = False) -> None:
        self.values = values
        self.bounds = bounds
        self.known = known
        self.numpy = numpy

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def cell(self, row: int) -> Any:
        return self.cells(torch.tensor([row]))[0]

    def cells(self, rows: Tensor) -> list[Any]:
        known = [True] * len(rows) if self.known is None else self.known[rows].tolist()
        places = zip(known, self.bounds[rows].tolist(), self.bounds[rows + 1].tolist(), strict=True)
        return [_given(self.values[start:end], self.numpy) if real else None for real, start, end in places]

    def distinct(self, rows: Tensor) -> tuple[list[Any], Tensor]:
        return all_distinct(self.cells(rows))

    def array(self) -> None:
        return None


def all_distinct(cells: list[Any]) -> tuple[list[Any], Tensor]:
    """The cells that are not empty, and the number of each: arrays are not compared."""
    real = torch.tensor([cell is not None for cell in cells], dtype=torch.bool)
    return [cell for cell in cells if cell is not None], torch.where(real, real.cumsum(0) - 1, -1)


def _given(values: Tensor, numpy: bool) -> Any:
    return values.numpy() if numpy else values
