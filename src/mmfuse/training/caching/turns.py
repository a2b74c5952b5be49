"""One run at a time fills a folder with features: another one waits for it, and finds them there."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmfuse.distributed import agree, is_main

_LOOK = 0.5  # seconds between two looks at whether the other one is done


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """A context in which no other run fills the folder. All processes of a run enter it, and its first one asks.

    The lock is one of the operating system on an open file: whatever ends a run gives it back. Where files cannot be
    locked, nobody waits; then two runs may encode the same cells, and both of what they write is right.
    """
    lock = _Lock(folder / "lock") if is_main() else None
    try:
        told = False
        while agree([float(lock is not None and not lock.is_mine())])[0]:
            if lock is not None and not told:
                told = True
                warnings.warn(
                    f"Another run is filling {folder} with features. This one waits until it is done, or gone.",
                    stacklevel=4,
                )
            time.sleep(_LOOK)
        yield
    finally:
        if lock is not None:
            lock.give_back()


class _Lock:
    def __init__(self, path: Path) -> None:
        self._file: Any = None
        with suppress(ImportError, OSError):  # no such locks here, or a folder that may only be read
            import fcntl

            self._how = fcntl
            self._file = path.open("ab")

    def is_mine(self) -> bool:
        """Whether nobody else has it, as far as can be told; this asks for it."""
        if self._file is None:
            return True
        try:
            self._how.flock(self._file, self._how.LOCK_EX | self._how.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
        return True

    def give_back(self) -> None:
        if self._file is not None:
            # Closing would not do: processes that were forked meanwhile have the file open, too.
            self._how.flock(self._file, self._how.LOCK_UN)
            self._file.close()
