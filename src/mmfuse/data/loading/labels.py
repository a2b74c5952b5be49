"""All labels of a table as one tensor a task, encoded once for each different cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from mmfuse.contracts import Target
from mmfuse.data.errors import DataError
from mmfuse.data.tables.places import first_places
from mmfuse.data.tables.table import Table


@dataclass(frozen=True)
class Labels:
    """The different labels of a task, and which of them each row has; the first stands for "unknown"."""

    values: Shaped[Tensor, "label ..."]
    codes: Int[Tensor, " row"]

    def __getitem__(self, row: int) -> Tensor | None:
        """The label of a row, None where it is unknown."""
        code = int(self.codes[row])
        return self.values[code] if code else None

    def take(self, rows: Int[Tensor, " batch"]) -> Target:
        """The labels of some rows."""
        codes = self.codes.index_select(0, rows)
        return Target(self.values.index_select(0, codes), codes > 0)

    @property
    def known(self) -> int:
        """How many rows have a label."""
        return int((self.codes > 0).sum())

    @property
    def different(self) -> int:
        """How many different labels the rows have."""
        return len(self.values[1:].unique(dim=0)) if len(self.values) > 1 else 0


def encode_labels(table: Table, name: str, task: Any) -> Labels:
    """Encode the column of a task.

    A task may have ``encode_all(cells) -> tensor``, for many cells at once; ``encode`` is asked where it fails.

    Raises:
        DataError: a cell is no label of this task; the message names its lines.
    """
    cells, codes = _different(table, name)
    blank = task.blank()
    if not len(cells):
        return Labels(blank[None], codes)
    try:
        values = _encode_all(task, cells)
    except ValueError:
        raise DataError(_explain(table, name, task, cells, codes)) from None
    return Labels(torch.cat([blank[None], values.to(blank.dtype)]), codes)


def _different(table: Table, name: str) -> tuple[Sequence[Any] | Tensor, Tensor]:
    """The different cells of a column, and the place of each row's among them, from 1; 0 where it is empty."""
    array = table.array(name)
    if array is not None and array.dim() > 1:  # yes or no for each class
        return array, torch.arange(1, len(array) + 1)
    cells, codes = table.distinct(name)
    return cells, codes + 1


def _encode_all(task: Any, cells: Sequence[Any] | Tensor) -> Tensor:
    if hasattr(task, "encode_all"):
        return task.encode_all(cells)
    return torch.stack([task.encode(cell) for cell in cells])


def _explain(table: Table, name: str, task: Any, cells: Sequence[Any] | Tensor, codes: Tensor) -> str:
    """The message of the first cell that is no label, with all its lines, and the names of some others."""
    first, others = "", []
    for place, cell in enumerate(cells, start=1):
        try:
            task.encode(cell)
        except ValueError as error:
            rows = (codes == place).nonzero().flatten().tolist()
            where = first_places(table, rows)
            if first:
                others.append(f"{cell!r} ({where})")
            else:
                first = f"{where}, column {name!r}: {error}"
            if len(others) == 4:  # to look for the nearest name takes time
                others.append("perhaps more")
                break
    also = f" Nor are: {', '.join(others)}." if others else ""
    return f"{first}{also} To predict, labels are not needed: read_table(..., columns={{{name!r}: None}})."
