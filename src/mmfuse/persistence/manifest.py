"""``MANIFEST.json`` of a folder: size and sha256 of each of its files, and of itself."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfuse._files import CorruptCheckpointError, read_json, refuse_pickle, what_differs

NAME = "MANIFEST.json"


def write_manifest(folder: Path, files: Mapping[str, Mapping[str, Any]], *, version: int) -> None:
    """Write down size and sha256 of the files of a folder, by name, and the version of its layout."""
    body = {"version": version, "files": dict(files)}
    (folder / NAME).write_text(json.dumps({"sha256": _hash(body), **body}), encoding="utf-8")


def read_manifest(folder: Path, *, allowed: re.Pattern[str], version: int) -> dict[str, dict[str, Any]]:
    """Size and sha256 of the files of a folder, by name.

    Args:
        folder: a checkpoint or a saved model.
        allowed: what their names may be.
        version: the newest layout that can be read.

    Raises:
        CorruptCheckpointError: there is no manifest, or it is damaged.
        UnsafeFileError: one of the files is a pickle.
        ValueError: a newer mmfuse wrote it.
    """
    manifest = read_json(folder / NAME)
    found = manifest.pop("sha256", None)
    if found != (expected := _hash(manifest)):
        raise CorruptCheckpointError(
            f"{NAME} in {folder} has sha256 {str(found)[:16]}, expected {expected[:16]}. Expected it as it was "
            "written. Copy the folder again, or use another one."
        )
    written, files = manifest.get("version"), manifest.get("files")
    if not isinstance(written, int) or written > version:
        raise ValueError(
            f"{folder} has version {written}. Expected {version} at most: a newer mmfuse wrote it. Update mmfuse."
        )
    if not isinstance(files, dict) or (strange := [name for name in files if not allowed.fullmatch(name)]):
        raise CorruptCheckpointError(
            f"{NAME} in {folder} names {strange if isinstance(files, dict) else files}. Expected the files that mmfuse "
            "writes. Use another folder."
        )
    for name in files:
        refuse_pickle(folder / name)
    return files


def first_difference(folder: Path, files: Mapping[str, Mapping[str, Any]], *, hashes: bool = True) -> str | None:
    """How the first file that is not as it was written differs; None if all are whole (``hashes``: to the bit)."""
    differences = (what_differs(folder / name, entry, hashes=hashes) for name, entry in files.items())
    return next((text for text in differences if text is not None), None)


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
