"""The samples of one batch as columns of a table, so that they are read as any table is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfuse.data.shards.cells import Encoded
from mmfuse.data.tables.table import Table


@dataclass
class Held:
    """The samples of the batch that is being made, by row, and the cells of them that could not be decoded."""

    samples: dict[int, Encoded] = field(default_factory=dict)
    wrong: dict[tuple[int, str], ValueError] = field(default_factory=dict)

    def replace(self, samples: dict[int, Encoded]) -> None:
        """Take the samples of another batch."""
        self.samples, self.wrong = samples, {}

    def errors(self, columns: Iterable[str]) -> list[tuple[int, ValueError]]:
        """The rows with a cell of these columns that could not be decoded, and why."""
        wanted = set(columns)
        return [(row, error) for (row, column), error in self.wrong.items() if column in wanted]


class MemberColumn:
    """One column of the samples that are held. A cell that cannot be decoded is empty, and noted.

    Args:
        held: the samples.
        column: its name.
        names: under which names its members stand.
        files: cells are files; text is none.
        rows: the number of samples in all shards.
    """

    def __init__(self, held: Held, column: str, names: tuple[str, ...], *, files: bool, rows: int) -> None:
        self._held = held
        self._column = column
        self._names = names
        self._files = files
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def cell(self, row: int) -> Any:
        """What the members of one sample say."""
        try:
            cell = self._held.samples[row].cell(self._names)
            if self._files and isinstance(cell, str):
                raise ValueError(
                    f"It is the text {cell[:80]!r}. Expected the bytes of a file: paths in shards are not followed. "
                    "Write the file itself into the shard: write_shards(..., files=[its column])."
                )
        except ValueError as error:
            self._held.wrong[row, self._column] = error
            return None
        return cell

    def cells(self, rows: Tensor) -> list[Any]:
        """The cells of some samples of the batch."""
        return [self.cell(row) for row in rows.tolist()]

    def distinct(self, rows: Tensor) -> tuple[list[Any], Tensor]:
        """Each cell for itself."""
        cells = self.cells(rows)
        known = torch.tensor([cell is not None for cell in cells])
        return [cell for cell in cells if cell is not None], (known.cumsum(0) - 1).masked_fill(~known, -1)

    def array(self) -> None:
        """Never one array."""


def as_table(name: str, held: Held, columns: Mapping[str, tuple[str, ...]], files: Iterable[str], rows: int) -> Table:
    """A table of all samples of the shards, with cells only where a sample is held."""
    paths = set(files)
    store = {c: MemberColumn(held, c, names, files=c in paths, rows=rows) for c, names in columns.items()}
    return Table(name, Path(), store)
