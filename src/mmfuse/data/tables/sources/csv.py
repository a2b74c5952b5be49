"""CSV files. Cells stay as they are written: ``007``, ``1.0`` and ``NA`` are text."""

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmfuse.data.errors import DataError
from mmfuse.data.tables.columns import Packer
from mmfuse.data.tables.sources.source import Source, require_different
from mmfuse.data.tables.sources.text_lines import LONGEST_LINE, bounded_lines, open_text

_AT_ONCE = 8192  # rows


def read_csv(path: Path, *, delimiter: str = ",") -> Source:
    """A table with a header. A column without a name, such as the index that pandas writes, is ``Unnamed: 0``."""
    with open_text(path) as file:
        pieces = _pieces(path.name, file, delimiter)
        lines, (names,) = next(pieces, (np.ones(1, np.int64), [[]]))
        header = [cell if cell.strip() else f"Unnamed: {place}" for place, cell in enumerate(names)]  # as pandas does
        require_different(path.name, header, f" line {lines[0]}")
        packers = [Packer() for _ in header]
        places = [np.zeros(0, np.int64)]
        for lines, rows in pieces:
            _require_delimiter(path.name, header, rows)
            _require_equal_length(path.name, lines, rows, len(header))
            places.append(lines)
            if not rows:
                continue  # nothing but empty lines
            for packer, cells in zip(packers, zip(*rows, strict=True), strict=True):
                packer.add_text(cells)
    columns = {name: packer.column() for name, packer in zip(header, packers, strict=True)}
    return Source(path.name, path.parent, columns, torch.from_numpy(np.concatenate(places)))


def _pieces(name: str, file: Any, delimiter: str) -> Iterator[tuple[np.ndarray, list[list[str]]]]:
    """The header, then many rows at a time, each with the line where it ends; without empty lines.

    Strict: an open quotation mark would swallow the rows after it in silence.
    """
    reader = csv.reader(bounded_lines(name, file), strict=True, delimiter=delimiter)
    usual = csv.field_size_limit(LONGEST_LINE)  # 131072 letters: too few for long texts
    try:
        header = next((cells for cells in reader if cells), [])
        yield np.array([reader.line_num]), [header]
        before = reader.line_num
        while rows := list(islice(reader, _AT_ONCE)):
            lines = np.arange(before + 1, before + 1 + len(rows))
            if reader.line_num > lines[-1]:  # line breaks between quotation marks
                lines += np.cumsum([sum(map(_line_breaks, cells)) for cells in rows])
            before = reader.line_num
            yield lines[[bool(cells) for cells in rows]], [cells for cells in rows if cells]
    except csv.Error as error:
        raise DataError(
            f"{name} line {reader.line_num} is not CSV: {error}. Expected quotation marks in pairs. "
            'Put a cell that holds one between double quotes, and write it twice: "a ""word"" more".'
        ) from None
    finally:
        csv.field_size_limit(usual)


def _line_breaks(cell: str) -> int:
    return cell.count("\n") + cell.count("\r") - cell.count("\r\n")


def _require_delimiter(name: str, header: list[str], rows: list[list[str]]) -> None:
    """Raise DataError if the cells seem to be divided by something else."""
    for other in (";", "\t", "|"):
        if len(header) == 1 and rows and 0 < header[0].count(other) == rows[0][0].count(other):
            raise DataError(
                f"{name} has one column, {header[0]!r}. Expected cells with commas between them (tabs in a .tsv), not "
                f"{other!r}. Save it so, or give read_table(pandas.read_csv({name!r}, sep={other!r}, dtype=str))."
            )


def _require_equal_length(name: str, lines: np.ndarray, rows: list[list[str]], width: int) -> None:
    if set(map(len, rows)) - {width}:
        line, cells = next((line, cells) for line, cells in zip(lines, rows, strict=True) if len(cells) != width)
        raise DataError(
            f"{name} line {line} has {len(cells)} cells. Expected {width}, as in the header. "
            "Put cells that contain a comma between double quotes."
        )
