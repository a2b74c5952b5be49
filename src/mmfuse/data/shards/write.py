"""Rows of a table -> shards: tar files with a sample for each row, and an index with their counts."""

import io
import json
import random
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mmfuse._checks import require_known_names, require_positive
from mmfuse._files import plain, write_folder
from mmfuse.data.errors import DataError
from mmfuse.data.shards.index import Shard, checksum, write_index
from mmfuse.data.tables.places import place_of
from mmfuse.data.tables.sources import read_table
from mmfuse.data.tables.table import Table


def write_shards(
    rows: Table | Iterable[Mapping[str, Any]],
    folder: str | Path,
    *,
    files: Collection[str] = (),
    key: str | None = None,
    per_shard: int = 1000,
    seed: int | None = None,
    root: str | Path | None = None,
) -> list[Shard]:
    """Write a table as shards in the format of WebDataset, and their ``index.json``.

    A row with the key ``000007`` becomes the members ``000007.image.jpg`` (a file, copied as it is),
    ``000007.depth.npy`` (an array) and ``000007.json`` (all other cells). The folder appears when all of it is on disk.

    Args:
        rows: a table, or any iterable of rows: these are never all in memory.
        folder: where the shards go; it must not exist, or be empty.
        files: the columns whose cells are paths of files.
        key: a column that names each sample; the number of the row if None.
        per_shard: samples in a shard. Shards of 100 MB to 1 GB are read fast.
        seed: write the rows in a random order (of a table only); in their own if None. Reading shuffles whole shards
            and, within the buffer, samples: rows that are sorted by class should be shuffled here.
        root: the folder of relative paths, for rows that are no table.

    Returns:
        What the index says of each shard.

    Raises:
        DataError: a file cannot be read or a key comes twice; the message names the row. Nothing is left behind.
    """
    require_positive("write_shards", per_shard=per_shard)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"write_shards found files in {folder}. Expected a new folder. Choose another one.")
    if seed is not None and not isinstance(rows, Table):
        raise ValueError(
            "write_shards got a seed, and rows that can be read only once. Expected a table to shuffle. Use "
            "read_table(rows), or shuffle them before."
        )
    if isinstance(rows, Table):
        require_known_names("write_shards(files=...)", files, rows.columns, "column")
    shards: list[Shard] = []

    def fill(new: Path) -> None:
        keys: set[str] = set()
        for number, samples in enumerate(_chunks(rows, per_shard, seed, root)):
            shards.append(_write_shard(new / f"shard-{number:06d}.tar", samples, set(files), key, keys))
        if not shards:
            raise DataError("write_shards got no rows. Expected one or more. Is it the right table?")
        write_index(new, shards)

    write_folder(folder, fill)
    return [Shard(folder / s.path.name, s.samples, s.bytes, s.columns, crc32=s.crc32) for s in shards]


Sample = tuple[Table, int, int]  # a table, the row in it, and the number that names it


def _chunks(
    rows: Table | Iterable[Mapping[str, Any]], size: int, seed: int | None, root: str | Path | None
) -> Iterator[list[Sample]]:
    if isinstance(rows, Table):
        order = list(range(len(rows)))
        if seed is not None:
            random.Random(seed).shuffle(order)
        for start in range(0, len(order), size):
            yield [(rows, row, row) for row in order[start : start + size]]
        return
    iterator, first = iter(rows), 0
    while chunk := list(islice(iterator, size)):
        table = read_table(chunk, root=root)
        yield [(table, row, first + row) for row in range(len(chunk))]
        first += len(chunk)


def _write_shard(path: Path, samples: list[Sample], files: set[str], key: str | None, keys: set[str]) -> Shard:
    columns: dict[str, None] = {}
    with tarfile.open(path, "w") as tar:
        for table, row, number in samples:
            name = _key(table, row, number, key)
            if name in keys:
                raise DataError(
                    f"{place_of(table, row)}: the key {name!r} comes twice. Expected another one for each "
                    "sample. Choose another column, or key=None for the number of the row."
                )
            keys.add(name)
            kinds: set[str] = set()
            for column, content in _members(table, row, files, key):
                kind = column.lower()
                if kind in kinds or not re.fullmatch(r"[^./\\\0][^/\\\0]*", kind):
                    raise DataError(
                        f"{table.name}: the column of {kind!r} cannot name a member. Expected names without slashes, "
                        "different in lower case, and not 'json'. Rename it."
                    )
                kinds.add(kind)
                header = tarfile.TarInfo(f"{name}.{kind}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
                columns[kind] = None
            columns |= {column: None for column in table.columns if column not in files and column != key}
    return Shard(path, len(samples), path.stat().st_size, tuple(columns), crc32=checksum(path))


def _key(table: Table, row: int, number: int, key: str | None) -> str:
    if key is None:
        return f"{number:09d}"
    name = str(table.cell(row, key))
    if not re.fullmatch(r"[^./\\\0]{1,200}", name) or name.startswith("__"):
        raise DataError(
            f"{place_of(table, row)}: {name[:80]!r} cannot be a key. Expected a name without dots and "
            "slashes. Choose another column, or key=None for the number of the row."
        )
    return name


def _members(table: Table, row: int, files: Collection[str], key: str | None) -> Iterator[tuple[str, bytes]]:
    """The members of a row: their kind and content. There is always a JSON, so that no row is lost."""
    rest: dict[str, Any] = {}
    for column in table.columns:
        cell = table.cell(row, column)
        try:
            if cell is not None and column in files:
                yield _file(table, column, cell)
            elif _is_array(cell):
                yield f"{column}.npy", _npy(cell)
            elif isinstance(cell, bytes):
                yield column, cell
            elif column != key and column not in files:
                rest[column] = plain(cell)
        except (ValueError, OSError) as error:
            raise DataError(f"{place_of(table, row)}, column {column!r}: {error} Mend or empty the cell.") from error
    try:
        yield "json", json.dumps(rest, ensure_ascii=False).encode()
    except TypeError as error:
        raise DataError(
            f"{place_of(table, row)}: {error}. Expected text, numbers, lists, arrays or the bytes of "
            "files. Turn the cell into one of them."
        ) from None


def _file(table: Table, column: str, cell: Any) -> tuple[str, bytes]:
    if isinstance(cell, bytes):
        return column, cell
    path = table.path(cell)
    return f"{column}{path.suffix.lower()}", path.read_bytes()


def _is_array(cell: Any) -> bool:
    return hasattr(cell, "__array__") and getattr(cell, "ndim", 0) > 0


def _npy(cell: Any) -> bytes:
    import numpy

    file = io.BytesIO()
    numpy.save(file, numpy.asarray(cell), allow_pickle=False)
    return file.getvalue()
