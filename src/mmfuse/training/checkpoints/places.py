"""The folders of a run's checkpoints: which there are, which is the newest, which may go."""

import re
import shutil
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmfuse.persistence.manifest import read_manifest

VERSION = 2  # of the layout; 1 was `last`, a folder without a manifest
# A file in the folder itself, or the frozen parameters beside it, which several checkpoints share.
FILE = re.compile(r"\.\./frozen-[0-9a-f]{16}\.safetensors|[A-Za-z_][\w.-]*\.(safetensors|json)")


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of the files of a checkpoint, by name, as :func:`read_manifest` reads them."""
    return read_manifest(folder, allowed=FILE, version=VERSION)


class Places:
    """Folders such as ``step-00000120`` in one folder; a second one of the same number is ``step-00000120.1``.

    Args:
        folder: that holds them.
        unit: what is counted: "step", "epoch".
        writer: a number that no other writer has.
    """

    def __init__(self, folder: Path, unit: str, writer: int = 0) -> None:
        self.folder = folder
        self.unit = unit
        self.new = folder / f".new-{writer}"  # in the same folder, hence on the same disk: it can be renamed into place

    def all(self) -> list[tuple[int, int]]:
        """Number and repetition of each, the newest last. Numbers are compared as numbers: 1000 is after 999."""
        if not self.folder.is_dir():
            return []
        pattern = re.compile(rf"{self.unit}-(\d+)(?:\.(\d+))?")
        found = (pattern.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted((int(match[1]), int(match[2] or 0)) for match in found if match)

    def path(self, number: int, repetition: int = 0) -> Path:
        """The folder of one."""
        return self.folder / (f"{self.unit}-{number:08d}" + f".{repetition}" * (repetition > 0))

    def free(self, number: int) -> Path:
        """Where the next of this number goes: nothing is overwritten."""
        taken = [repetition for other, repetition in self.all() if other == number]
        return self.path(number, max(taken) + 1 if taken else 0)

    def require_no_older(self) -> None:
        """Raise ValueError if a run of the layout before stands here: to begin anew would be a surprise."""
        if (old := self.folder.parent / "last" / "state.json").is_file():
            raise ValueError(
                f"{old.parent} is a checkpoint of version 1, which does not say where in an epoch it is. Expected "
                f"checkpoints of version {VERSION}. Finish that run with the mmfuse of then, or use another folder."
            )

    def clear(self) -> None:
        """Remove what a run that was killed left half written or half removed."""
        for path in [*self.folder.glob(".new-*"), *self.folder.glob(".old-*")]:
            _remove(path)

    def prune(self, newest: Path, keep: int, needed: Collection[int]) -> None:
        """Remove all that are older than ``newest`` but ``keep`` in all and those with a ``needed`` number.

        What is newer stays: it was broken when the run went on from an older one, and is there to be looked at. What
        cannot be removed, such as that of another user, is named in a warning: the newest is whole all the same.
        """
        names = [(number, self.path(number, repetition)) for number, repetition in self.all()]
        until = [path for _, path in names].index(newest) + 1
        for number, path in names[: max(0, until - keep)]:
            if number not in needed:
                try:
                    _remove(path.rename(self.folder / f".old-{path.name}"))
                except OSError as error:
                    warnings.warn(
                        f"{path} is older than the {keep} newest checkpoints, and could not be removed "
                        f"({error.strerror}). Expected a folder that is one's own. Remove it, or the disk may fill up.",
                        stacklevel=2,
                    )
        self._prune_frozen()

    def _prune_frozen(self) -> None:
        """Remove files of frozen parameters that no checkpoint refers to."""
        used: set[str] = set()
        for number, repetition in self.all():
            try:
                used |= set(files_of(self.path(number, repetition)))
            except ValueError:
                return  # one that cannot be read may refer to any
        for path in self.folder.glob("frozen-*.safetensors"):
            if f"../{path.name}" not in used:
                path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Remove a folder, or a link to one; what cannot be removed, as what is open on NFS, stays for the next time."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
