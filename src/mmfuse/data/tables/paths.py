"""The file that a cell of a table names: only files below the folder of the table."""

import os
import re
import stat
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from mmfuse._checks import nearest

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
LONGEST_PATH = 4096  # bytes, as Linux has it
LONGEST_NAME = 255
MOST_NAMES = 500  # of a folder that are compared with a wrong one


def safe_path(root: Path, cell: Any, *, outside: bool = False) -> Path:
    """The file that a cell names, its links followed; nothing is opened.

    Args:
        root: the folder that relative paths begin in, and that no path may leave.
        cell: what the table says.
        outside: files outside of ``root`` are fine too.

    Raises:
        ValueError: the cell is no path, an address, leads out of the folder, or is no regular file.
    """
    if not isinstance(cell, str):
        raise ValueError(f"The cell is a {type(cell).__name__}. Expected the path of one file. Choose one of them.")
    _require_plain(cell)
    base = _resolve_root(str(root)) if root.is_absolute() else os.path.realpath(root)
    path, mode = _follow(base, cell)
    if not outside and path != base and not path.startswith(os.path.join(base, "")):
        raise ValueError(
            f"{_short(cell)} leads out of {root}. Expected a file in that folder. Move the file there, or "
            "give read_table(..., root=a folder that holds all files), or outside=True if you trust the table."
        )
    _require_file(path, mode, root)
    return Path(path)


@lru_cache(maxsize=64)
def _resolve_root(root: str) -> str:
    """A folder without links; asked for once, because it is the same for every cell of a table."""
    return os.path.realpath(root)


def _follow(base: str, cell: str) -> tuple[str, int | None]:
    """The path without links, and its mode if it was looked up. Where none is below the folder, 5 times faster."""
    path = os.path.join(base, cell)
    if os.path.isabs(cell) or ".." in cell or os.sep != "/":
        return os.path.realpath(path), None
    here, mode = base, None
    for part in cell.split("/"):
        here = f"{here}/{part}"
        try:
            mode = os.lstat(here).st_mode
        except OSError:
            return path, None
        if stat.S_ISLNK(mode):
            return os.path.realpath(path), None
    return path, mode


def _require_plain(cell: str) -> None:
    if _ADDRESS.match(cell) or cell.lower().startswith("file:"):
        raise ValueError(
            f"{_short(cell)} is an address. Expected the path of a file. Download it first, for example with "
            "urllib.request.urlretrieve(address, file), and write the path of the file into the cell."
        )
    if cell.startswith(("\\\\", "//")):
        raise ValueError(f"{_short(cell)} is a network path. Expected a file of this machine. Copy it here first.")
    if "\0" in cell:
        raise ValueError(f"{_short(cell)} holds a NUL character. Expected the path of a file. Mend the cell.")
    if len(cell) * 4 > LONGEST_NAME and _is_overlong(os.fsencode(cell)):
        raise ValueError(
            f"{_short(cell)} is {len(cell)} letters long. Expected the path of a file, at most {LONGEST_NAME} letters "
            "a name. Is it the right column?"
        )


def _is_overlong(path: bytes) -> bool:
    return len(path) >= LONGEST_PATH or max(map(len, path.split(b"/"))) > LONGEST_NAME


def _require_file(path: str, mode: int | None, root: Path) -> None:
    try:
        mode = os.stat(path).st_mode if mode is None else mode
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(_missing(Path(path), root)) from None
    except OSError as error:
        raise ValueError(f"It cannot be looked at: {error.strerror}. Expected a regular file. Mend it.") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise ValueError(f"It is {kind}. Expected a regular file. Name one file.")


def _missing(path: Path, root: Path) -> str:
    """What is not there, and what in the nearest folder has a similar name."""
    gone = path
    while not gone.parent.is_dir() and gone != gone.parent:
        gone = gone.parent
    # A folder may hold a million files, and comparing names is slow.
    try:
        names = [entry.name for entry in islice(os.scandir(gone.parent), MOST_NAMES)]
    except OSError:
        names = []
    what = "no such file" if gone == path else f"no such file, for there is no folder {gone.name!r}"
    return f"{what} (paths are relative to {root}).{nearest(gone.name, names)}"


def _short(cell: str) -> str:
    return repr(cell if len(cell) <= 80 else f"{cell[:77]}...")
