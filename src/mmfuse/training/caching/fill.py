"""Fills the cache of one modality: what is not there yet is encoded, told beforehand, and shared among processes."""

import shutil
import sys
import warnings
from contextlib import closing
from pathlib import Path

import torch
from tqdm import tqdm

from mmfuse.distributed import agree, is_main, rank, world
from mmfuse.training.caching.encode import Encoding
from mmfuse.training.caching.keys import KeyedReader, Keys
from mmfuse.training.caching.shards import ShardWriter, join_shards
from mmfuse.training.caching.store import FeatureStore
from mmfuse.training.caching.stored import read_unreadable
from mmfuse.training.caching.whole import full_disk, readable, remove_unfinished, write_whole


def fill(encoding: Encoding, folder: Path, *, batch_size: int, workers: int, progress: bool) -> None:
    """Encode the cells of a table whose features are not in ``folder``; with several processes, each its share.

    Raises:
        DataError: a cell cannot be read, and the dataset says that this is an error.
        OSError: the disk is full.
    """
    for place in (folder, folder.parent):
        remove_unfinished(place)
    rows, keys = _missing(encoding, folder)
    writer, line = ShardWriter(folder), ""
    cells = int(agree([len(rows)])[0])
    bar = tqdm(total=cells, desc=encoding.name, unit=" cells", disable=not (progress and is_main() and cells))
    with bar, closing(encoding.run(rows, keys, writer, batch_size=batch_size, workers=workers)) as steps:
        # All processes take each step together: one that has less to do does not wait for the others in silence.
        while done := int(agree([count := next(steps, 0)])[0]):
            if not line and writer.samples:
                line = _plan(encoding, folder, writer, cells, encoding.seconds / max(1, count) / world())
                if not bar.disable:
                    bar.write(line, file=sys.stderr)
            bar.update(done)
        if encoding.error and not bar.disable:
            bar.write(f"{encoding.name}: rounding changed {encoding.error:.2g} of the largest number.", file=sys.stderr)
    _note_unreadable(encoding, folder)
    agree([0.0])  # all shards are there
    if is_main():
        join_shards(folder)
    agree([0.0])


def _missing(encoding: Encoding, folder: Path) -> tuple[list[int], list[bytes]]:
    """The rows of this process whose features are not stored, one for each different cell, and their keys."""
    table, transform = encoding.dataset.table, encoding.dataset.transforms[encoding.name]
    reader = KeyedReader(table, encoding.name, transform, cache=False, seed=0)
    known = Keys(folder.parent, rank())
    mine = torch.arange(len(table))[rank() :: world()]
    found = reader.keys(mine, known)
    known.save()
    first: dict[bytes, int] = {}
    lost = []  # what is no file; reading it says why
    for row, key in zip(mine.tolist(), found, strict=True):
        if isinstance(key, bytes):
            first.setdefault(key, row)
        elif key is not None:
            lost.append(row)
    keys = list(first)
    stored = FeatureStore(folder, encoding.encoder.dim, encoding.dtype).find(keys).tolist()
    pairs = [(first[key], key) for key, place in zip(keys, stored, strict=True) if place < 0]
    if transform.padding is not None:  # those of like length together; the longest first, should memory not suffice
        sizes = dict(zip([row for row, _ in pairs], reader.sizes([row for row, _ in pairs]), strict=True))
        pairs.sort(key=lambda pair: -sizes[pair[0]])
    pairs += [(row, b"") for row in lost]
    return [row for row, _ in pairs], [key for _, key in pairs]


def _plan(encoding: Encoding, folder: Path, writer: ShardWriter, cells: int, seconds: float) -> str:
    """One line with two numbers: what a sample takes on the disk, and the time that encoding it takes.

    Raises:
        OSError: the disk has no room for all.
    """
    size = writer.bytes / writer.samples
    needed, free = int(cells * size), shutil.disk_usage(folder).free
    if needed > free:
        raise full_disk(folder, needed)
    what = "tokens and pooled vector" if encoding.tokens else "pooled vector"
    return (
        f"{encoding.name}: {readable(size)} a sample ({what}, {encoding.dtype}), {readable(needed)} for {cells} of "
        f"them, {readable(free)} are free. Encoding takes {_duration(seconds)} a sample, {_duration(seconds * cells)} "
        "in all: every later epoch over them saves so much."
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
