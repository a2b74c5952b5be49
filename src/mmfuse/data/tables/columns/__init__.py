"""How the cells of one column are held: a few tensors, so that workers share them, and no Python object for a row."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mmfuse.data.tables.columns.arrays import ArrayColumn as ArrayColumn
from mmfuse.data.tables.columns.arrays import RaggedColumn as RaggedColumn
from mmfuse.data.tables.columns.objects import ObjectColumn as ObjectColumn
from mmfuse.data.tables.columns.packed import PackedColumn as PackedColumn
from mmfuse.data.tables.columns.packed import Packer as Packer
from mmfuse.data.tables.columns.values import as_tensor as as_tensor
from mmfuse.data.tables.columns.values import column_of as column_of
from mmfuse.data.tables.columns.values import named_column as named_column


@runtime_checkable
class Column(Protocol):
    """What a table asks of a column. A source with another way to hold cells brings a class that has these."""

    def __len__(self) -> int:
        """The number of rows."""
        ...

    def cell(self, row: int) -> Any:
        """One cell, None where it is empty."""
        ...

    def cells(self, rows: Tensor) -> list[Any]:
        """The cells of some rows, in this order; None where they are empty."""
        ...

    def distinct(self, rows: Tensor) -> tuple[list[Any], Tensor]:
        """The different cells of some rows, and for each row which of them it has, -1 where it is empty."""
        ...

    def array(self) -> Tensor | None:
        """All rows as one array, where it is so held and no cell is empty."""
        ...


class EmptyColumn:
    """A column without a cell."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def cell(self, row: int) -> None:  # noqa: ARG002
        return None

    def cells(self, rows: Tensor) -> list[Any]:
        return [None] * len(rows)

    def distinct(self, rows: Tensor) -> tuple[list[Any], Tensor]:
        return [], torch.full((len(rows),), -1)

    def array(self) -> None:
        return None
