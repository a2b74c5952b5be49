"""Rows of a file, a frame or a list: the names of the columns, and the cells of each row with its line."""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from mmfuse._checks import nearest
from mmfuse.data.errors import DataError

Rows = tuple[list[str], list[tuple[int, dict[str, Any]]]]  # the header, and each row with its line


def read_file(path: Path) -> Rows:
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
    rows = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = _split_csv(path.name, file)
        _, header = next(lines, (0, []))
        _require_different(path.name, header)
        for number, cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path.name} line {number} has {len(cells)} cells. Expected {len(header)}, as in the "
                    "header. Put cells that contain a comma between double quotes."
                )
            rows.append((number, dict(zip(header, map(_empty_to_none, cells), strict=True))))
    return header, rows


def _split_csv(name: str, file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row and its line. Strict: an open quotation mark would swallow the rows after it in silence."""
    reader = csv.reader(file, strict=True)
    usual = csv.field_size_limit(2**31 - 1)  # 131072 letters: too few for long texts
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"{name} line {reader.line_num} is not CSV: {error}. Expected quotation marks in pairs. "
            'Put a cell that holds one between double quotes, and write it twice: "a ""word"" more".'
        ) from None
    finally:
        csv.field_size_limit(usual)


def _require_different(name: str, header: list[str]) -> None:
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise DataError(f"{name} has columns of one name: {twice}. Expected different names. Rename them.")


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
    return gather(rows)


def gather(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Rows:
    """Rows that may lack some of the columns."""
    named = []
    for number, row in rows:
        if not isinstance(row, Mapping):
            raise DataError(
                f"Row {number} of the list is a {type(row).__name__}. Expected a mapping from column to cell. "
                "Write it as {'text': 'hello', 'label': 'greeting'}."
            )
        named.append((number, {str(name): cell for name, cell in row.items()}))
    header = list(dict.fromkeys(name for _, row in named for name in row))
    return header, [(number, {name: _cell(row.get(name)) for name in header}) for number, row in named]


def read_frame(frame: Any) -> Rows:
    header = [str(name) for name in frame.columns]
    _require_different("the frame", header)
    absent = frame.isna().to_numpy()
    records = [
        (i, {name: None if empty else _cell(value) for name, value, empty in zip(header, row, gone, strict=True)})
        for i, (row, gone) in enumerate(zip(frame.itertuples(index=False), absent, strict=True))
    ]
    return header, records


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        yield from file


def _empty_to_none(cell: str) -> str | None:
    return cell if cell.strip() else None


def _cell(value: Any) -> Any:
    """A JSON or pandas value as a cell: text, a list of text, or None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return _empty_to_none(str(value))
