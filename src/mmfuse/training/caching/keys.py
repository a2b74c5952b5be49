"""What tells cells apart: 16 bytes that are a function of their content, wherever it stands."""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfuse._files import CorruptCheckpointError, read_tensors
from mmfuse.data.loading.reading import CellReader
from mmfuse.training.caching.content import SIMPLE, put, put_content
from mmfuse.training.caching.whole import write_note

SIZE = 16  # bytes of a key: two of a billion cells are alike by chance once in 10**20 times
_PIECE = 1 << 20
_SETTLED = 2 * 10**9  # nanoseconds; what was changed later than that may change again within one tick of the clock


class Keys:
    """Keys of cells. What was a file keeps its key as long as the disk says that nobody has written to it.

    A file is read as a whole the first time, and again where its size, its times (of writing and of any change, which
    no program can set back) or its inode are others than then.

    Args:
        folder: where is written what files were like when they were read.
        rank: number of this process, which writes a file of its own.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self._path = folder / f"files-{rank}.safetensors"
        self._known: dict[bytes, tuple[tuple[int, ...], bytes]] = {}
        self._news = False
        for path in folder.glob("files-*.safetensors"):
            with suppress(CorruptCheckpointError, KeyError, ValueError):  # files are read again, then
                tensors = read_tensors(path)
                paths, keys = _split(tensors["paths"]), _split(tensors["keys"])
                stats = map(tuple, tensors["stats"].tolist())
                self._known |= dict(zip(paths, zip(stats, keys, strict=True), strict=True))

    def of(self, value: Any) -> bytes:
        """The key of what a transform is given.

        Raises:
            TypeError: it is of a kind whose content cannot be told.
            OSError: it is a file that cannot be read.
        """
        if isinstance(value, Path):
            return self._file(value)
        digest = hashlib.blake2b(digest_size=SIZE)
        self._add(digest, value)
        return digest.digest()

    def save(self) -> None:
        """Write what files were like, for the next time."""
        if not self._news:
            return
        paths, found = list(self._known), list(self._known.values())
        tensors = {
            "paths": _joined(paths),
            "stats": torch.tensor([stats for stats, _ in found], dtype=torch.int64).reshape(-1, 4),
            "keys": _joined([key for _, key in found]),
        }
        write_note(self._path, tensors)
        self._news = False

    def _file(self, path: Path) -> bytes:
        name = hashlib.blake2b(os.fsencode(path), digest_size=SIZE).digest()
        stats = stats_of(path)
        if (known := self._known.get(name)) is not None and known[0] == stats:
            return known[1]
        digest = hashlib.blake2b(b"file " + path.suffix.lower().encode(), digest_size=SIZE)
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
        key = digest.digest()
        if stats == stats_of(path) and time.time_ns() - max(stats[1:3]) > _SETTLED:
            self._known[name], self._news = (stats, key), True
        return key

    def _add(self, digest: Any, value: Any) -> None:
        if isinstance(value, Path):
            put(digest, "file", self._file(value))
        elif isinstance(value, Mapping):
            put(digest, "mapping", str(len(value)).encode())
            for name in sorted(value, key=str):
                self._add(digest, str(name))
                self._add(digest, value[name])
        elif isinstance(value, list | tuple) and not all(type(item) in SIMPLE for item in value):
            put(digest, "items", str(len(value)).encode())
            for item in value:
                self._add(digest, item)
        else:
            put_content(digest, value)


class KeyedReader(CellReader):
    """A reader of cells that knows their keys."""

    def keys(self, rows: Tensor, keys: Keys) -> list[bytes | Exception | None]:
        """The key of each row; None where the cell is empty, the error where its file cannot be found or read."""
        found: list[bytes | Exception | None] = []
        for cell in self._cells(rows):
            try:
                found.append(None if cell is None else keys.of(self._value(cell)))
            except (ValueError, OSError) as error:
                found.append(error)
        return found

    def changed(self, keys: Keys, rows: Sequence[int], before: Sequence[bytes]) -> list[int]:
        """Which rows are files that were written to since their keys were taken; those that had none do not count."""
        if not self._transform.takes_path:
            return []
        now = self.keys(torch.tensor(rows, dtype=torch.int64), keys)
        return [row for row, key, then in zip(rows, now, before, strict=True) if then and key != then]

    def sizes(self, rows: list[int]) -> list[int]:
        """How large each cell is, in whatever its kind is measured by: those of like size are of like length."""
        return [_size(self._value(cell)) for cell in self._cells(torch.tensor(rows, dtype=torch.int64))]


def _size(value: Any) -> int:
    if isinstance(value, Path):
        return os.stat(value).st_size
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return len(value) if hasattr(value, "__len__") else 0


def stats_of(path: Path) -> tuple[int, int, int, int]:
    """What tells that somebody has written to a file: size, time of writing, time of any change, inode."""
    now = os.stat(path)
    return now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino & (2**63 - 1)


def _split(keys: Tensor) -> list[bytes]:
    data = keys.numpy().tobytes()
    return [data[start : start + SIZE] for start in range(0, len(data), SIZE)]


def _joined(keys: list[bytes]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(-1, SIZE)
