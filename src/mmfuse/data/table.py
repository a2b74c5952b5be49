"""Tables of samples: CSV, JSON Lines or a pandas frame in, rows of cells out."""

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mmfuse._checks import nearest
from mmfuse.data._rows import gather, read_file, read_frame
from mmfuse.data.errors import DataError
from mmfuse.data.paths import safe_path


@dataclass(frozen=True)
class Table:
    """Rows of a table. Every cell is a string (or a list, from JSON), or None where it is empty.

    ``rows[i][column]`` is a cell; ``lines[i]`` is where row ``i`` stands in the file, for messages.
    """

    name: str
    root: Path  # what relative paths are relative to
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[Any]:
        """All cells of a column, top to bottom."""
        self.require_column(name)
        return [row[name] for row in self.rows]

    def cell(self, row: int, column: str) -> Any:
        """One cell, None where it is empty."""
        self.require_column(column)
        return self.rows[row][column]

    def cells(self, rows: Iterable[int], column: str) -> list[Any]:
        """Some cells of a column, in the order of ``rows``."""
        self.require_column(column)
        return [self.rows[row][column] for row in rows]

    def array(self, column: str) -> Tensor | None:
        """A column that is held as one array, along whose first axis the rows lie; None for any other column."""
        self.require_column(column)
        return None

    def line(self, row: int) -> int:
        """Where a row stands in its file, for messages."""
        return self.lines[row]

    def path(self, cell: str) -> Path:
        """The file that a cell names, below the folder of the table.

        Raises:
            ValueError: it is an address, leaves the folder, or is no file.
        """
        return safe_path(self.root, cell)

    def classes(self, name: str, *, separator: str | None = None) -> list[str]:
        """The different labels of a column in order: as numbers if all are, else as text. Take the training table's.

        Args:
            name: the column.
            separator: what stands between several labels in one cell.
        """
        found: set[str] = set()
        for cell in self.column(name):
            if cell is not None:
                several = isinstance(cell, list) or separator is not None
                found.update(_labels(cell, separator) if several else [str(cell)])
        if not found:
            raise DataError(f"{self.name}: column {name!r} has no label. Expected at least one. Fill some cells.")
        return sorted(found, key=_number_or_text(found))

    def statistics(self, name: str) -> dict[str, float]:
        """Mean and standard deviation of a column of numbers, as ``Regression`` takes them: of the training table."""
        cells = zip(self.lines, self.column(name), strict=True)
        numbers = [self._number(name, line, cell) for line, cell in cells if cell is not None]
        if not numbers:
            raise DataError(f"{self.name}: column {name!r} has no number. Expected at least one. Fill some cells.")
        mean = math.fsum(numbers) / len(numbers)
        std = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / len(numbers))
        return {"mean": mean, "std": std or 1.0}

    def _number(self, name: str, line: int, cell: Any) -> float:
        try:
            number = float(cell)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(
                f"{self.name} line {line}: column {name!r} is not numeric: {cell!r}. Expected numbers. "
                "Mend the cell, or leave it empty for an unknown label."
            )
        return number

    def take(self, indices: Iterable[int]) -> "Table":
        """Some rows, in the order given."""
        chosen = list(indices)
        return replace(self, rows=tuple(self.rows[i] for i in chosen), lines=tuple(self.lines[i] for i in chosen))

    def split(self, *shares: float, seed: int = 0, group: str | None = None) -> tuple["Table", ...]:
        """Several tables without a row in common, at random.

        Args:
            shares: the share of each, adding up to 1, for example ``0.8, 0.1, 0.1``.
            seed: of the order.
            group: a column; rows with the same cell in it stay together (one speaker, one patient).
        """
        if not shares or min(shares) <= 0 or not math.isclose(sum(shares), 1.0):
            raise ValueError(
                f"split got shares {shares}. Expected positive numbers that add up to 1. Try 0.8, 0.1, 0.1."
            )
        keys: list[Any] = list(range(len(self))) if group is None else [str(cell) for cell in self.column(group)]
        order = sorted(set(keys))
        random.Random(seed).shuffle(order)
        ends = [round(sum(shares[: i + 1]) * len(order)) for i in range(len(shares))]
        part_of = {key: sum(place >= end for end in ends[:-1]) for place, key in enumerate(order)}
        return tuple(self.take(i for i, key in enumerate(keys) if part_of[key] == part) for part in range(len(shares)))

    def require_column(self, name: str) -> None:
        """Raise DataError, with the nearest name, unless there is such a column."""
        if name not in self.columns:
            raise DataError(
                f"{self.name} has no column {name!r}. Expected one of {list(self.columns)}."
                f"{nearest(name, self.columns)} "
                f"Or say where it stands: read_table(..., columns={{{name!r}: 'its name'}}), with None for its name "
                "if this table has none."
            )


def read_table(
    source: Any, *, columns: Mapping[str, str | None] | None = None, root: str | Path | None = None
) -> Table:
    """Read a table of samples: one row a sample, one column a modality or a label.

    Empty cells are absent modalities and unknown labels. Cells are kept as they are written: ``007``, ``1.0`` and
    ``NA`` are labels. Paths in cells are relative to the table.

    Args:
        source: a ``.csv`` or ``.jsonl`` file, a pandas frame (missing values are empty cells), or a list of rows, each
            a mapping from column to cell.
        columns: names that differ: ``{"image": "photo_file"}`` reads the modality ``image`` from the column
            ``photo_file``; ``{"audio": None}`` says that this table has no ``audio`` at all.
        root: what paths are relative to, if not the folder of the file (for a frame or a list: the working folder).

    Raises:
        DataError: the file is missing, empty, of an unknown kind, or has a broken line; the message names the line.
    """
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        name, folder, (header, numbered) = "the frame", Path.cwd(), read_frame(source)
    elif isinstance(source, list | tuple):
        name, folder, (header, numbered) = "the list", Path.cwd(), gather(enumerate(source))
    else:
        path = Path(source)
        name, folder, (header, numbered) = path.name, path.parent, read_file(path)
    if not numbered:
        raise DataError(f"{name} has no rows. Expected at least one below the header. Is it the right file?")
    table = Table(
        name=name,
        root=Path(root) if root is not None else folder,
        columns=tuple(header),
        rows=tuple(row for _, row in numbered),
        lines=tuple(line for line, _ in numbered),
    )
    return _rename(table, columns or {})


def _rename(table: Table, columns: Mapping[str, str | None]) -> Table:
    for name in columns.values():
        if name is not None:
            table.require_column(name)
    kept = [name for name in table.columns if name not in columns and name not in columns.values()]
    taken = {**{name: name for name in kept}, **columns}
    rows = tuple({new: None if old is None else row[old] for new, old in taken.items()} for row in table.rows)
    return replace(table, columns=tuple(taken), rows=rows)


def _labels(cell: Any, separator: str | None) -> list[str]:
    parts = cell if isinstance(cell, list) else str(cell).split(separator)
    return [part.strip() for part in parts if part.strip()]


def _number_or_text(labels: Iterable[str]) -> Any:
    """Sort key: by value if every label is a number, else as text."""
    try:
        values = {label: float(label) for label in labels}
    except ValueError:
        return str
    if not all(map(math.isfinite, values.values())):
        return str  # nothing is above or below NaN: the order would depend on chance
    return lambda label: (values[label], label)
