"""JSON Lines: an object a line. Numbers are kept as text, as they are written, and lists as lists."""

import json
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from mmfuse.data.errors import DataError
from mmfuse.data.tables.columns import Packer
from mmfuse.data.tables.sources.source import Source
from mmfuse.data.tables.sources.text_lines import bounded_lines, open_text

_AT_ONCE = 8192  # rows


def read_json_lines(path: Path) -> Source:
    """Rows that may lack some of the columns."""
    packers: dict[str, Packer] = {}
    lines = array("q")
    with open_text(path) as file:
        rows = _parse(path.name, bounded_lines(path.name, file))
        while some := list(islice(rows, _AT_ONCE)):
            for name in dict.fromkeys(name for _, row in some for name in row):
                if name not in packers:
                    packers[name] = Packer()
                    packers[name].skip(len(lines))
            for name, packer in packers.items():
                packer.add([row.get(name) for _, row in some])
            lines.extend(line for line, _ in some)
    columns = {name: packer.column() for name, packer in packers.items()}
    return Source(path.name, path.parent, columns, torch.frombuffer(lines, dtype=torch.int64) if lines else None)


def _parse(name: str, lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in enumerate(lines, start=1):
        if text.isspace():
            continue
        try:
            row = _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} line {number} is not JSON: {error}. Expected one object a line.") from None
        if not isinstance(row, dict):
            raise DataError(f"{name} line {number} is a {type(row).__name__}. Expected an object with named cells.")
        yield number, {column: str(cell) if isinstance(cell, _Decimal) else cell for column, cell in row.items()}


class _Decimal(float):
    """A number that is shown as it was written: ``0.10`` may be a label, which predictions give back."""

    written: str

    def __str__(self) -> str:
        return self.written


def _different(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _finite(text: str) -> _Decimal:
    value = _Decimal(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large a number")
    value.written = text
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON; write null for a value that is not known")


_DECODER = json.JSONDecoder(object_pairs_hook=_different, parse_float=_finite, parse_constant=_refuse)
