"""Tables of samples: CSV, JSON Lines or a pandas frame in, rows of cells out."""

import csv
import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmfuse._checks import nearest
from mmfuse.data.errors import DataError


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
        try:
            numbers = [float(cell) for cell in self.column(name) if cell is not None]
        except ValueError as error:
            raise DataError(f"{self.name}: column {name!r} is not numeric: {error}. Expected numbers.") from None
        if not numbers:
            raise DataError(f"{self.name}: column {name!r} has no number. Expected at least one. Fill some cells.")
        mean = math.fsum(numbers) / len(numbers)
        std = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / len(numbers))
        return {"mean": mean, "std": std or 1.0}

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
                f"Or say where it stands: read_table(..., columns={{{name!r}: 'its name'}})."
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
        name, folder, (header, numbered) = "the frame", Path.cwd(), _read_frame(source)
    elif isinstance(source, list | tuple):
        name, folder, (header, numbered) = "the list", Path.cwd(), _gather(enumerate(source))
    else:
        path = Path(source)
        name, folder, (header, numbered) = path.name, path.parent, _read_file(path)
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


Rows = tuple[list[str], list[tuple[int, dict[str, Any]]]]  # the header, and each row with its line


def _read_file(path: Path) -> Rows:
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise DataError(f"{path} is not a file. Expected a .csv or .jsonl table.{near} Check the path.")
    readers = {".csv": _read_csv, ".jsonl": _read_json_lines}
    if path.suffix.lower() not in readers:
        raise DataError(
            f"{path.name} is of an unknown kind {path.suffix!r}. Expected {' or '.join(readers)}. "
            "Convert it, or read it with pandas and give the frame to read_table."
        )
    try:
        return readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text ({error.reason}). Expected UTF-8. Save it so.") from None


def _read_csv(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise DataError(f"{path.name} has columns of one name: {twice}. Expected different names. Rename them.")
        rows = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path.name} line {reader.line_num} has {len(cells)} cells. Expected {len(header)}, as in the "
                    "header. Put cells that contain a comma between double quotes."
                )
            rows.append((reader.line_num, dict(zip(header, map(_empty_to_none, cells), strict=True))))
    return header, rows


def _read_json_lines(path: Path) -> Rows:
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, text in enumerate(_lines(path), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path.name} line {number} is not JSON: {error}. Expected one object a line.") from None
        if not isinstance(row, dict):
            raise DataError(
                f"{path.name} line {number} is a {type(row).__name__}. Expected an object with named cells."
            )
        rows.append((number, row))
    return _gather(rows)


def _gather(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Rows:
    """Rows that may lack some of the columns."""
    rows = list(rows)
    header = list(dict.fromkeys(str(name) for _, row in rows for name in row))
    return header, [(number, {name: _cell(row.get(name)) for name in header}) for number, row in rows]


def _read_frame(frame: Any) -> Rows:
    header = [str(name) for name in frame.columns]
    absent = frame.isna().to_numpy()
    records = [
        (i, {name: None if empty else _cell(value) for name, value, empty in zip(header, row, gone, strict=True)})
        for i, (row, gone) in enumerate(zip(frame.itertuples(index=False), absent, strict=True))
    ]
    return header, records


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        yield from file


def _rename(table: Table, columns: Mapping[str, str | None]) -> Table:
    for name in columns.values():
        if name is not None:
            table.require_column(name)
    kept = [name for name in table.columns if name not in columns and name not in columns.values()]
    taken = {**{name: name for name in kept}, **columns}
    rows = tuple({new: None if old is None else row[old] for new, old in taken.items()} for row in table.rows)
    return replace(table, columns=tuple(taken), rows=rows)


def _empty_to_none(cell: str) -> str | None:
    return cell if cell.strip() else None


def _cell(value: Any) -> Any:
    """A JSON or pandas value as a cell: text, a list of text, or None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return _empty_to_none(str(value))


def _labels(cell: Any, separator: str | None) -> list[str]:
    parts = cell if isinstance(cell, list) else str(cell).split(separator)
    return [part.strip() for part in parts if part.strip()]


def _number_or_text(labels: Iterable[str]) -> Any:
    """Sort key: by value if every label is a number, else as text."""
    try:
        values = {label: float(label) for label in labels}
    except ValueError:
        return str
    return lambda label: (values[label], label)
