"""Files of a cache: each is there as a whole or not at all."""

import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmfuse._files import flush, write_tensors

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors (.safetensors) or anything else (.json) beside the place, and rename it into place.

    Raises:
        OSError: the disk is full; what was there before is as it was.
    """
    new = path.parent / f".{path.name}.{_host()}.{os.getpid()}"
    new.unlink(missing_ok=True)
    try:
        if path.suffix == ".json":
            new.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        else:
            write_tensors(new, content)
        flush(new)
        new.rename(path)
        flush(path.parent)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise full_disk(path.parent, size_of(content), error.errno) from error
    finally:
        new.unlink(missing_ok=True)


def write_note(path: Path, content: Mapping[str, Any]) -> None:
    """Write down what only saves time, if this may be: a folder that is complete can be one that is only read."""
    try:
        write_whole(path, content)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def full_disk(folder: Path, needed: int, number: int = errno.ENOSPC) -> OSError:
    """The error of a disk without room for so many bytes more."""
    free = shutil.disk_usage(folder).free
    return OSError(
        number,
        f"The features do not fit on the disk: {readable(needed)} more are needed in {folder}, {readable(free)} are "
        "free. Expected room for them. What was written before is whole: free some and call cache_features again, or "
        "choose keep='pooled', dtype='float16' or another folder",
    )


def size_of(content: Mapping[str, Any]) -> int:
    """Bytes of some tensors, or of what is written as JSON."""
    if not all(isinstance(x, Tensor) for x in content.values()):
        return len(json.dumps(content))
    return sum(x.numel() * x.element_size() for x in content.values())


def readable(size: int | float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def remove_unfinished(folder: Path) -> None:
    """Remove what processes of this machine have left half written when they were killed."""
    for path in folder.glob(f".*.{_host()}.*"):
        number = path.name.rpartition(".")[2]
        if number.isdigit() and not _is_running(int(number)):
            path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"\W", "-", platform.node()) or "here"


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
