"""A snapshot -> a verified checkpoint on the disk, or an error and nothing."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmfuse._files import (
    CorruptCheckpointError,
    flush,
    flush_folder,
    hash_file,
    hash_tensors,
    read_json,
    what_differs,
    write_tensors,
)
from mmfuse.persistence.manifest import write_manifest
from mmfuse.training.checkpoints.places import VERSION, Places
from mmfuse.training.checkpoints.processes import Processes
from mmfuse.training.checkpoints.snapshot import Snapshot

MIB = 2**20


class Writing:
    """One checkpoint on its way to the disk. All processes write it together: it is whole everywhere or nowhere.

    Args:
        places: where checkpoints stand.
        step: its number.
        snapshot: what this process writes.
        processes: the processes.
        whole: what to say of those that are there already.
    """

    def __init__(self, places: Places, step: int, snapshot: Snapshot, processes: Processes, whole: str) -> None:
        self._places, self._step, self._snapshot, self._processes = places, step, snapshot, processes
        self._whole = whole
        self._need = 0

    def run(self, keep: int, needed: Callable[[], Collection[int]]) -> None:
        """Write, look at what came out, rename it into place, then remove what is older than the ``keep`` newest.

        Raises:
            OSError: there is no room, or the disk does not take it, here or at another process.
            CorruptCheckpointError: the disk gives back something else than was written.
        """
        target = self._places.free(self._step)
        self._all(self._find_frozen)
        self._need = self._processes.add(self._snapshot.size)
        self._first(self._begin)
        self._all(self._write_own)
        self._first(lambda: self._finish(target))
        self._snapshot.written = True
        self._first(lambda: self._places.prune(target, keep, needed()))

    def _begin(self) -> None:
        self._places.folder.mkdir(parents=True, exist_ok=True)
        self._places.clear()
        if _free(self._places.folder) < self._need:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._places.new.mkdir()

    def _write_own(self) -> None:
        """The files of this process, each flushed and read again, and its index."""
        new, rank = self._places.new, self._processes.rank
        if self._snapshot.frozen:
            self._write_frozen(self._snapshot.frozen)
        entries = {name: write_tensors(new / name, tensors) for name, tensors in self._snapshot.files.items()}
        for name, entry in entries.items():
            flush(new / name)
            _require_whole(new / name, entry)
        index = {"tensors": self._snapshot.index, "files": entries | self._snapshot.shared}
        (new / f"index.rank{rank}.json").write_text(
            json.dumps(index, allow_nan=False, separators=(",", ":")), encoding="utf-8"
        )

    def _find_frozen(self) -> None:
        """A run that goes on finds the frozen parameters that it wrote before: their file is named by its content."""
        if self._snapshot.frozen:
            entry = hash_tensors(self._snapshot.frozen)
            if what_differs(self._frozen(entry), entry) is None:
                self._snapshot.settle(f"../{self._frozen(entry).name}", entry)

    def _write_frozen(self, tensors: Mapping[str, Tensor]) -> None:
        new = self._places.new / f"frozen.rank{self._processes.rank}"
        entry = write_tensors(new, tensors)
        flush(new)
        _require_whole(new, entry)
        new.replace(self._frozen(entry))
        self._snapshot.settle(f"../{self._frozen(entry).name}", entry)

    def _frozen(self, entry: Mapping[str, Any]) -> Path:
        return self._places.folder / f"frozen-{entry['sha256'][:16]}.safetensors"

    def _finish(self, target: Path) -> None:
        """What the first process adds when all have written."""
        new = self._places.new
        files: dict[str, Any] = {}
        for rank in range(self._processes.world):
            name = f"index.rank{rank}.json"
            files |= {**read_json(new / name)["files"], name: hash_file(new / name)}
        (new / "state.json").write_text(
            json.dumps(self._snapshot.text, allow_nan=False, separators=(",", ":")), encoding="utf-8"
        )
        write_manifest(new, {**files, "state.json": hash_file(new / "state.json")}, version=VERSION)
        flush_folder(new)
        os.rename(new, target)
        flush(self._places.folder)

    def _first(self, act: Callable[[], None]) -> None:
        """Do something in the first process; an error there is an error in all."""
        self._all(act if self._processes.rank == 0 else lambda: None)

    def _all(self, act: Callable[[], None]) -> None:
        """Do something in this process; an error in one of them is an error in all."""
        error: Exception | None = None
        try:
            act()
        except Exception as met:
            error = self._explain(met) if isinstance(met, OSError) else met
        try:
            self._processes.share(error, f"could not write its part of the checkpoint of {self._step}")
        except Exception:
            if self._processes.rank == 0:
                shutil.rmtree(self._places.new, ignore_errors=True)
            raise

    def _explain(self, error: OSError) -> OSError:
        """The same error with what it means for the run."""
        folder, what = self._places.folder, f"the checkpoint of {self._places.unit} {self._step}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            has = f"needs {self._need / MIB:.1f} MiB, has {_free(folder) / MIB:.1f} MiB"
            text = f"No space left in {folder}: {what} {has}."
            mend = "Make room there, or copy the run to a larger disk, and resume."
        else:
            text = (
                f"{error.strerror or error} in {folder}: {what} could not be written ({error.filename or 'no file'})."
            )
            mend = "Mend the disk or its permissions, and resume."
        explained = OSError(error.errno, f"{text} {self._whole} {mend}")
        explained.__cause__ = error
        return explained


def _require_whole(path: Path, entry: dict[str, Any]) -> None:
    if (problem := what_differs(path, entry)) is not None:
        raise CorruptCheckpointError(
            f"{problem}: the disk gave back something else than was written. Expected the same. Look at the disk, or "
            "use another folder."
        )


def _free(folder: Path) -> int:
    """Bytes that are free where a folder stands, or would."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free
