"""The file that a cell of a table names: only files below the folder of the table."""

import os
import re
import stat
from pathlib import Path
from typing import Any

from mmfuse._checks import nearest

LONGEST_PATH = 4096  # bytes, as Linux has it
LONGEST_NAME = 255


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
    base = Path(os.path.realpath(root))
    path = Path(os.path.realpath(base / cell))
    if not outside and not path.is_relative_to(base):
        raise ValueError(
            f"{_short(cell)} leads out of {root}. Expected a file in that folder. Move the file there, or "
            "give read_table(..., root=a folder that holds all files), or outside=True if you trust the table."
        )
    _require_file(path, root)
    return path


def _require_plain(cell: str) -> None:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", cell) or cell.lower().startswith("file:"):
        raise ValueError(
            f"{_short(cell)} is an address. Expected the path of a file. Download it first, for example with "
            "urllib.request.urlretrieve(address, file), and write the path of the file into the cell."
        )
    if cell.startswith(("\\\\", "//")):
        raise ValueError(f"{_short(cell)} is a network path. Expected a file of this machine. Copy it here first.")
    if "\0" in cell:
        raise ValueError(f"{_short(cell)} holds a NUL character. Expected the path of a file. Mend the cell.")
    longest = max(len(os.fsencode(part)) for part in cell.split("/"))
    if len(os.fsencode(cell)) >= LONGEST_PATH or longest > LONGEST_NAME:
        raise ValueError(
            f"{_short(cell)} is {len(cell)} letters long. Expected the path of a file, at most {LONGEST_NAME} letters "
            "a name. Is it the right column?"
        )


def _require_file(path: Path, root: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        names = [entry.name for entry in os.scandir(path.parent)] if path.parent.is_dir() else []
        raise FileNotFoundError(f"no such file (paths are relative to {root}).{nearest(path.name, names)}") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise ValueError(f"It is {kind}. Expected a regular file. Name one file.")


def _short(cell: str) -> str:
    return repr(cell if len(cell) <= 80 else f"{cell[:77]}...")
