"""Rows of a table as samples: files read, cells transformed, labels encoded."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmfuse._checks import require_choice
from mmfuse.data.errors import DataError
from mmfuse.data.table import Table
from mmfuse.data.transforms import Transform


@dataclass(frozen=True)
class Sample:
    """One row: a tensor for each modality and task, None where it is absent or unknown."""

    inputs: Mapping[str, Tensor | None]
    targets: Mapping[str, Tensor | None]


class TableDataset(Dataset):
    """Samples of a table, made when asked for.

    All randomness of a sample is a function of ``(seed, epoch, row)``, so that it does not depend on the number of
    workers or on what was read before. Labels are encoded at once: a label that is not a class is an error before
    training starts.

    Args:
        table: the rows. A modality is read from the column of its name.
        transforms: how each modality's cell becomes a tensor.
        tasks: what encodes each label; a task without a column has no known label.
        on_error: what an unreadable file does: ``"raise"``, or make the modality ``"absent"`` in that sample, which
            :attr:`dropped` then lists.
        cache: keep what was read in memory (for tables whose rows share files); not where a transform is random.
        seed: of what is random in the transforms.
    """

    def __init__(
        self,
        table: Table,
        transforms: Mapping[str, Transform],
        tasks: Mapping[str, nn.Module] | nn.ModuleDict,
        *,
        on_error: str = "raise",
        cache: bool = False,
        seed: int = 0,
    ) -> None:
        require_choice("TableDataset", "on_error", on_error, ("raise", "absent"))
        for name in transforms:
            table.require_column(name)
        self.table = table
        self.transforms = dict(transforms)
        self.on_error = on_error
        self.seed = seed
        self.targets = {name: _encode(table, name, task) for name, task in tasks.items() if name in table.columns}
        self._cache: dict[tuple[str, str], Tensor | None] | None = {} if cache else None
        # Shared with the workers, so that the main process can list what they could not read.
        self._dropped = torch.zeros(len(table), len(transforms), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: tuple[int, int] | int) -> Sample:
        """The sample of ``(epoch, row)``, or of a row in epoch 0."""
        epoch, row = key if isinstance(key, tuple) else (0, key)
        inputs = {name: self._read(name, row, epoch) for name in self.transforms}
        return Sample(inputs, {name: labels[row] for name, labels in self.targets.items()})

    @property
    def dropped(self) -> list[str]:
        """What was absent because it could not be read, so far: row, column and file of each."""
        names = list(self.transforms)
        return [
            f"{_place(self.table, row, names[column])} {self.table.rows[row][names[column]]}"
            for row, column in self._dropped.nonzero().tolist()
        ]

    def _read(self, name: str, row: int, epoch: int) -> Tensor | None:
        cell = self.table.rows[row][name]
        if cell is None:
            return None
        transform = self.transforms[name]
        if self._cache is not None and not transform.random and isinstance(cell, str):
            if (found := self._cache.get((name, cell))) is None:  # a file that was dropped is tried, and counted, again
                found = self._cache[name, cell] = self._transform(name, row, cell)
            return found
        with _seeded(self.seed, epoch, row, enabled=transform.random):
            return self._transform(name, row, cell)

    def _transform(self, name: str, row: int, cell: str) -> Tensor | None:
        transform = self.transforms[name]
        value: Any = cell
        try:
            if transform.takes_path:
                value = _resolve(self.table.root, cell)
            return transform(value)
        except Exception as error:
            if self.on_error == "absent":
                self._dropped[row, list(self.transforms).index(name)] = True
                return None
            where = f" file {value}:" if transform.takes_path else ""
            raise DataError(
                f"{_place(self.table, row, name)}:{where} {error} Mend or empty the cell, "
                "or pass on_error='absent' to go on without it and have it counted."
            ) from error


def _resolve(root: Path, cell: Any) -> Path:
    if not isinstance(cell, str):
        raise ValueError(f"The cell is a {type(cell).__name__}. Expected the path of one file. Choose one of them.")
    if "://" in cell:
        raise ValueError(f"{cell!r} is an address. Expected the path of a file. Download it first.")
    path = root / cell
    if not path.is_file():
        raise FileNotFoundError(f"no such file (paths are relative to {root}).")
    return path


def _place(table: Table, row: int, column: str) -> str:
    return f"{table.name} line {table.lines[row]}, column {column!r}"


def _encode(table: Table, name: str, task: Any) -> list[Tensor | None]:
    labels: list[Tensor | None] = []
    for row, cell in enumerate(table.column(name)):
        try:
            labels.append(None if cell is None else task.encode(cell))
        except ValueError as error:
            raise DataError(
                f"{_place(table, row, name)}: {error} To predict, labels are not needed: "
                f"read_table(..., columns={{{name!r}: None}})."
            ) from None
    return labels


class _seeded:
    """Seeds the global generators for one sample, and puts them back."""

    def __init__(self, *key: int, enabled: bool) -> None:
        self.key = key
        self.enabled = enabled

    def __enter__(self) -> None:
        if self.enabled:
            self.states = torch.get_rng_state(), random.getstate()
            seed = random.Random(repr(self.key)).getrandbits(63)
            # 500 times faster than torch.manual_seed, which also seeds every GPU.
            torch.default_generator.manual_seed(seed)
            random.seed(seed)

    def __exit__(self, *error: object) -> None:
        if self.enabled:
            torch.set_rng_state(self.states[0])
            random.setstate(self.states[1])
