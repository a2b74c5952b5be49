"""Cells and the content of files as numbers: equal where the content is equal."""

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmfuse.data.inspection.cells import Failed, blocks, choose, in_threads, present_rows
from mmfuse.data.inspection.findings import KEPT
from mmfuse.data.inspection.plan import Modality
from mmfuse.data.tables.table import Table

MOST_FILES = 100_000  # rows of a table whose files are looked at, and of which names are kept
MISSING = "no such file"  # as the messages of a table's paths begin
ABSENT, UNKNOWN = -1, -2
_BLOCK = 2**20  # bytes that are read at once
_HEAD = 2**16  # bytes by which files of one size are told apart first


@dataclass(frozen=True)
class Contents:
    """One modality of one table.

    Args:
        numbers: (rows); equal for equal content, ABSENT, or UNKNOWN where it was not looked at or cannot be read.
        names: (rows); which file a row names, or -1: equal for equal paths.
        faults: the reason for each row whose file is missing, refused or cannot be read.
    """

    numbers: Int[Tensor, " row"]
    names: Int[Tensor, " row"]
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def present(self) -> Bool[Tensor, " row"]:
        """Which rows have this modality; asked for once, because a user's own Dataset has to be read for it."""
        return self.numbers != ABSENT


@dataclass
class _Files:
    """All files of a modality, in whatever table, and the sizes of contents that stand in cells."""

    numbers: dict[str, int] = field(default_factory=dict)  # of each path
    sizes: list[int] = field(default_factory=list)
    in_cells: set[int] = field(default_factory=set)

    def add(self, path: Path) -> int:
        """The number of a file."""
        name = str(path)
        if name not in self.numbers:
            size = path.stat().st_size
            self.numbers[name] = len(self.sizes)
            self.sizes.append(size)
        return self.numbers[name]


def contents_of(
    tables: Sequence[Table], modality: Modality, *, seed: int, pool: ThreadPoolExecutor | None = None
) -> list[Contents]:
    """What stands in a modality of some tables, as numbers.

    Only files that have their size in common with another are read, and whole only those whose first 64 KiB are the
    same, too: BLAKE2b, of which 62 bits are kept (among a million contents, two are confused with probability 1e-7).
    """
    files = _Files()
    found = [_first_pass(table, modality, files, seed) for table in tables]
    digests, broken = _digests(files, pool)
    for contents in found:
        named = contents.names >= 0
        contents.numbers[named] = digests[contents.names[named]]
        if broken and bool(named.any()):
            for row in named.nonzero().flatten().tolist():
                if reason := broken.get(int(contents.names[row])):
                    contents.faults[row] = reason
                    contents.numbers[row] = UNKNOWN
    return found


def joined(numbers: Sequence[Int[Tensor, " row"]]) -> Int[Tensor, " row"]:
    """One number for several of a row: ABSENT where all are, UNKNOWN where one is."""
    key = np.zeros(len(numbers[0]), dtype=np.uint64)
    for part in numbers:
        key = key * np.uint64(0x9E3779B97F4A7C15) + part.numpy().astype(np.uint64)  # wraps round
        key ^= key >> np.uint64(29)
    every = torch.stack(list(numbers))
    made = torch.from_numpy((key >> np.uint64(2)).astype(np.int64))
    made[(every == ABSENT).all(dim=0)] = ABSENT
    made[(every == UNKNOWN).any(dim=0)] = UNKNOWN
    return made


def _first_pass(table: Table, modality: Modality, files: _Files, seed: int) -> Contents:
    """Cells that hold their content are hashed at once; files are numbered."""
    here = present_rows(table, modality.columns)
    most = MOST_FILES if modality.kind not in ("text", "table") else None
    contents = Contents(torch.where(here, UNKNOWN, ABSENT), torch.full((len(table),), -1))
    single = len(modality.columns) == 1
    for rows, columns in blocks(table, choose(here.nonzero().flatten(), most, seed), modality.columns):
        cells = columns[0] if single else list(zip(*columns, strict=True))
        failed = {place: part for column in columns for place, part in enumerate(column) if isinstance(part, Failed)}
        contents.faults.update({int(rows[place]): str(part.error) for place, part in failed.items()})
        named = [single and modality.takes_path and isinstance(cell, str) for cell in cells]
        hashed = [i for i, name in enumerate(named) if not name and i not in failed]
        contents.numbers[rows[hashed]] = torch.tensor([_number(_pieces(cells[i])) for i in hashed], dtype=torch.int64)
        files.in_cells |= {len(cells[i]) for i in hashed if isinstance(cells[i], bytes)}
        for place in [i for i, name in enumerate(named) if name]:
            try:
                many = len(contents.faults) > KEPT  # to look for the nearest name takes a thousand times as long
                path = _find(table, str(cells[place])) if many else table.path(cells[place])
                contents.names[rows[place]] = files.add(path)
            except (ValueError, OSError) as error:
                contents.faults[int(rows[place])] = str(error)
    return contents


def _find(table: Table, cell: str) -> Path:
    """As ``table.path``; of a missing file it is not said which names are near."""
    plain = not ("://" in cell or ".." in cell or "\0" in cell or os.path.isabs(cell))
    if plain and not os.path.lexists(os.path.join(table.root, cell)):
        raise ValueError(MISSING)
    return table.path(cell)


def _digests(files: _Files, pool: ThreadPoolExecutor | None) -> tuple[Tensor, dict[int, str]]:
    """The number of each file's content, and why a file cannot be read."""
    paths = list(files.numbers)
    sizes, broken = np.array(files.sizes, dtype=np.int64), dict[int, str]()
    digests = np.array([_number([b"file", path.encode("utf-8", "surrogateescape")]) for path in paths], dtype=np.int64)
    likely = _shared(sizes) | np.isin(sizes, list(files.in_cells))
    heads = digests.copy()
    _fill(heads, likely, lambda i: _read_number(paths[i], _HEAD), pool, broken)
    likely &= _shared(np.stack([sizes, heads], axis=1)) | np.isin(sizes, list(files.in_cells))
    _fill(digests, likely, lambda i: _read_number(paths[i], None), pool, broken)
    return torch.from_numpy(digests), broken


def _fill(numbers: Any, which: Any, read: Any, pool: ThreadPoolExecutor | None, broken: dict[int, str]) -> None:
    places = np.flatnonzero(which).tolist()
    for place, number in zip(places, in_threads(pool, read, places), strict=True):
        if isinstance(number, str):
            broken[place] = number
        else:
            numbers[place] = number


def _shared(keys: Any) -> Any:
    """Which rows occur more than once."""
    if not len(keys):
        return np.zeros(0, dtype=bool)
    _, inverse, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    return counts[inverse.reshape(-1)] > 1


def _read_number(path: str, most: int | None) -> int | str:
    """The number of a file's content, or of its beginning; the reason where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return _number([file.read(most)] if most else iter(lambda: file.read(_BLOCK), b""))
    except OSError as error:
        return f"The file cannot be read: {error.strerror}. Expected one that may be read. Mend its permissions."


def _number(pieces: Iterable[Any]) -> int:
    digest = blake2b(digest_size=8)
    for piece in pieces:
        digest.update(piece)
    return int.from_bytes(digest.digest(), "little") >> 2


def _pieces(cell: Any) -> list[Any]:
    """A cell as bytes; what is of another type is another content. Bytes count as a file that holds them."""
    if isinstance(cell, bytes):
        return [cell]
    if isinstance(cell, str):
        return [b"text", cell.encode("utf-8", "surrogatepass")]
    if isinstance(cell, Tensor):
        cell = cell.detach().cpu().float().numpy() if cell.dtype == torch.bfloat16 else cell.detach().cpu().numpy()
    if isinstance(cell, np.ndarray) and not cell.dtype.hasobject:
        return [f"array {cell.dtype} {cell.shape}".encode(), np.ascontiguousarray(cell).tobytes()]
    if hasattr(cell, "tobytes") and hasattr(cell, "mode"):  # a PIL image
        return [f"image {cell.mode} {cell.size}".encode(), cell.tobytes()]
    if isinstance(cell, list | tuple) and not all(isinstance(part, int | float) for part in cell):
        return [b"several", *(bytes(str(len(p)), "ascii") + p for part in cell for p in _pieces(part))]
    if isinstance(cell, int | float):
        return [b"value", repr(cell).encode()]
    return [b"value", json.dumps(cell, default=repr, sort_keys=True).encode("utf-8", "surrogatepass")]
