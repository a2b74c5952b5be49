"""Fills the cache of one modality: what is not there yet is encoded, told beforehand, and shared among processes."""

import shutil
import sys
import warnings
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from mmfuse.distributed import agree, is_main, rank, world
from mmfuse.training.bar import Bar
from mmfuse.training.caching.encode import Encoding, Reading
from mmfuse.training.caching.keys import KeyedReader, Keys
from mmfuse.training.caching.shards import ShardWriter, join_shards
from mmfuse.training.caching.store import FeatureStore
from mmfuse.training.caching.stored import read_unreadable
from mmfuse.training.caching.verify import note_whole, verify_touched
from mmfuse.training.caching.whole import full_disk, readable, remove_unfinished, write_whole


def fill(encoding: Encoding, folder: Path, reading: Reading, *, progress: bool) -> None:
    """Encode the cells of a table whose features are not in ``folder``; with several processes, each its share.

    Raises:
        DataError: a cell cannot be read, and the dataset says that this is an error.
        OSError: the disk is full.
        ValueError: a shard is not as it was written.
    """
    for place in (folder, folder.parent):
        remove_unfinished(place)
    verify_touched(folder)
    transform = encoding.dataset.transforms[encoding.name]
    reader = KeyedReader(encoding.dataset.table, encoding.name, transform, cache=False, seed=0)
    known = Keys(folder.parent, rank())
    cells = _missing(encoding, folder, reader, known)
    rows, keys = [cell.row for cell in cells], [cell.key for cell in cells]
    writer, line = ShardWriter(folder), ""
    total = int(agree([len(cells)])[0])
    if progress and is_main() and not total:
        Bar.write(f"{encoding.name}: the features of all cells are in {folder} already.", file=sys.stderr)
    bar = Bar(total=total, desc=encoding.name, unit=" cells", disable=not (progress and is_main() and total))
    with bar, closing(encoding.run(rows, keys, writer, reading, partial(reader.changed, known))) as steps:
        # All processes take each step together: one that has less to do does not wait for the others in silence.
        while done := int(agree([count := next(steps, 0)])[0]):
            if not line and writer.samples:
                share = sum(cell.size for cell in cells[:count]) / sum(cell.size for cell in cells)
                size = writer.bytes / share if encoding.tokens else writer.bytes / writer.samples * len(cells)
                line = _plan(encoding, folder, total, world() * size, encoding.seconds / share)
                if not bar.disable:
                    bar.write(line, file=sys.stderr)
            bar.update(done)
        if encoding.error and not bar.disable:
            bar.write(f"{encoding.name}: rounding changed {encoding.error:.2g} of the largest number.", file=sys.stderr)
    _note_unreadable(encoding, folder)
    agree([0.0])  # all shards are there
    if is_main():
        join_shards(folder)
        note_whole(folder)
    agree([0.0])


def _missing(encoding: Encoding, folder: Path, reader: KeyedReader, known: Keys) -> list["_Cell"]:
    """The cells of this process whose features are not stored: each once, in however many rows it stands."""
    mine = torch.arange(len(encoding.dataset.table))[rank() :: world()]
    found = reader.keys(mine, known)
    known.save()
    first: dict[bytes, int] = {}
    lost = []  # what is no file; reading it says why
    for row, key in zip(mine.tolist(), found, strict=True):
        if isinstance(key, bytes):
            first.setdefault(key, row)
        elif key is not None:
            lost.append(_Cell(row, b"", 1))
    stored = FeatureStore(folder, encoding.encoder.dim, encoding.dtype).find(list(first)).tolist()
    pairs = [pair for pair, place in zip(first.items(), stored, strict=True) if place < 0]
    if encoding.dataset.transforms[encoding.name].padding is None:
        return [_Cell(row, key, 1) for key, row in pairs] + lost
    sizes = reader.sizes([row for _, row in pairs])
    cells = [_Cell(row, key, max(1, size)) for (key, row), size in zip(pairs, sizes, strict=True)]
    # Those of like length together; the longest first, should memory not suffice.
    return sorted(cells, key=lambda cell: -cell.size) + lost


class _Cell(NamedTuple):
    """What is to be encoded."""

    row: int
    key: bytes
    size: int  # in whatever its length is measured by


def _plan(encoding: Encoding, folder: Path, cells: int, size: float, seconds: float) -> str:
    """One line: what a sample takes on the disk, the time that encoding takes, and how fast reading must be to win.

    Args:
        encoding: of one modality.
        folder: where the features go.
        cells: how many there are.
        size: of all their features, in bytes.
        seconds: in which all are encoded.

    Raises:
        OSError: the disk has no room for all.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise full_disk(folder, int(size))
    what = "tokens and pooled vector" if encoding.tokens else "pooled vector"
    return (
        f"{encoding.name}: {readable(size / cells)} a sample ({what}, {encoding.dtype}), {readable(size)} for {cells} "
        f"of them, {readable(free)} are free. Encoding takes {_duration(seconds / cells)} a sample, "
        f"{_duration(seconds)} in all, which every later epoch saves: where the disk gives more than "
        f"{readable(size / seconds)} a second, reading is faster."
    )


def _note_unreadable(encoding: Encoding, folder: Path) -> None:
    """Write down what could not be read, and warn of it in the name of who calls cache_features."""
    if encoding.unreadable:
        known = read_unreadable(folder)
        write_whole(folder / f"unreadable-{rank()}.json", known | encoding.unreadable)
    if dropped := encoding.dataset.report.dropped:
        more = f" and {len(dropped) - 5} more" if len(dropped) > 5 else ""
        warnings.warn(
            f"{len(dropped)} cells of {encoding.name!r} could not be read and have no features: "
            f"{'; '.join(dropped[:5])}{more}.",
            stacklevel=5,
        )


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min"), (1, "s")):
        if seconds >= 2 * size or (unit == "s" and seconds >= 1):
            return f"{seconds / size:.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"
