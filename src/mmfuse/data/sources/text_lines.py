"""The lines of a text file, gzip or not, within limits."""

import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmfuse.data.errors import DataError

LONGEST_LINE = 2**24  # letters
MOST_EXPANSION = 200  # times the size of a gzip file; text seldom shrinks to a hundredth
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
    except (gzip.BadGzipFile, EOFError) as error:
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
        self.file = gzip.GzipFile(fileobj=file)
        self.left = max(SMALL, MOST_EXPANSION * os.fstat(file.fileno()).st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            raise DataError(
                f"{self.name} holds more than {MOST_EXPANSION} times its size. Expected a table, not a bomb. "
                "If you trust it, unpack it and read the file inside."
            )
        buffer[: len(data)] = data
        return len(data)
