"""The lines of a text file, gzip or not, within limits."""

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmfuse.data.errors import DataError

LONGEST_LINE = 2**24  # letters
MOST_EXPANSION = 100  # times the size of a gzip file; tables shrink to a tenth
SMALL = 2**26  # bytes; a gzip file may always hold this much


@contextmanager
def open_text(path: Path) -> Iterator[Any]:
    """A text file in UTF-8, with or without a byte order mark, its ends of lines as they are."""
    try:
        with path.open("rb") as file:
            raw: Any = io.BufferedReader(_Gunzip(path, file), 2**16) if path.suffix.lower() == ".gz" else file
            yield io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text ({error.reason}). Expected UTF-8. Save it so.") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path.name} is not a whole gzip file: {error}. Expected one. Pack it again.") from None


def bounded_lines(name: str, file: Any) -> Iterator[str]:
    """The lines of a file. Raises DataError for one that is too long or holds a NUL, before it fills the memory."""
    number = 0
    read = file.readline
    while line := read(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise DataError(
                f"{name} line {number} is longer than {LONGEST_LINE} letters. Expected a line for each sample. "
                "Put long data into files of their own, and their paths into the table."
            )
        if "\0" in line:
            raise DataError(f"{name} line {number} holds a NUL character. Expected text. Is the file damaged?")
        yield line


class _Gunzip(io.RawIOBase):
    """What a gzip file holds, unless it is a bomb: very much made of very little."""

    def __init__(self, path: Path, file: Any) -> None:
        self.name = path.name
        self.left = max(SMALL, MOST_EXPANSION * os.fstat(file.fileno()).st_size)
        if file.read(2) != b"\x1f\x8b":
            raise gzip.BadGzipFile("it does not begin like one")
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4))
        self._require_left(int.from_bytes(file.read(4), "little"))  # what the file says of its size
        file.seek(0)
        self.file = gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        self.left -= len(data)
        self._require_left(0)
        buffer[: len(data)] = data
        return len(data)

    def _require_left(self, size: int) -> None:
        if size > self.left:
            raise DataError(
                f"{self.name} holds more than {MOST_EXPANSION} times its size, or is cut off. Expected a whole table, "
                "not a bomb. Load it again, or unpack it if you trust it, and read the file inside."
            )
