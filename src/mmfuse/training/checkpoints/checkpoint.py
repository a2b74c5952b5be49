"""Checkpoints: the whole state of a run as folders of safetensors and JSON, each whole and verified, without pickle.

``folder/checkpoints/step-00000120/`` holds a file of tensors for each part, ``random.rank0.safetensors`` with the
states of the random generators, ``index.rank0.json`` (which tensor is where), ``state.json`` (all that is not a tensor)
and ``MANIFEST.json`` (size and sha256 of the files). Several processes write a file each of what they share out.
"""

import secrets
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmfuse._checks import require_count
from mmfuse._files import CorruptCheckpointError
from mmfuse.distributed import background
from mmfuse.persistence.manifest import first_difference
from mmfuse.training.checkpoints.background import Background
from mmfuse.training.checkpoints.places import Places, files_of
from mmfuse.training.checkpoints.processes import Processes
from mmfuse.training.checkpoints.restore import put_back, read_states, require_same_settings
from mmfuse.training.checkpoints.saved import Saved
from mmfuse.training.checkpoints.snapshot import Snapshots
from mmfuse.training.checkpoints.state_tree import put_together, take_apart
from mmfuse.training.checkpoints.writing import Writing
from mmfuse.training.seeds import random_states, restore_random_states, seed_everything, seed_of

RandomStates = Mapping[str, Tensor]  # as random_states gives them


class Checkpoints:
    """The checkpoints of a run: written in the background, verified, and read back.

    Under several processes, all of them make it and call its methods together; the folder is one that all see.

    Args:
        folder: of the run.
        keep: how many of the newest stay.
        name: of the folder in it.
        unit: what is counted: names are ``step-00000120``.
        needed: numbers of older checkpoints that stay too, asked each time one is written.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 2,
        name: str = "checkpoints",
        unit: str = "step",
        needed: Callable[[], Collection[int]] = tuple,
    ) -> None:
        require_count("Checkpoints", keep=keep)
        self._writers = Processes(background())
        self._processes = Processes()
        (writer,) = self._processes.first([secrets.randbelow(10**9)])  # in a container each start has the same PID
        self._places = Places(Path(folder) / name, unit, writer)
        self._keep, self._needed = keep, needed
        self._snapshots = Snapshots(self._processes.rank)
        self._background = Background()
        self._whole: int | None = None  # the last that is known to be whole
        self._loaded: tuple[int, int, Mapping[str, RandomStates]] | None = None  # seed, step, random states

    def save(
        self,
        step: int,
        parts: Mapping[str, Any],
        progress: Mapping[str, Any],
        *,
        random: Mapping[str, RandomStates] | None = None,
    ) -> None:
        """Copy the state of all parts, and write it while training goes on.

        Args:
            step: its number. If there is one of this number already, this one counts as the newer.
            parts: what has a ``state_dict``: modules, optimizer, schedule, scaler.
            progress: numbers, text and lists that say how far the run is, and its ``settings``.
            random: more states of the random generators, by name, beside those of ``now``.

        Raises:
            OSError: the checkpoint before could not be written, for example because the disk is full.
        """
        self.wait()
        snapshot = self._snapshots.take(parts, {"now": random_states(), **(random or {})})
        snapshot.text["progress"] = _as_json(progress)

        whole = self._say_whole()

        def work() -> None:
            Writing(self._places, step, snapshot, self._writers, whole).run(self._keep, self._needed)
            self._whole = step

        self._background.begin(work, name=f"checkpoint of {self._places.unit} {step}")

    def wait(self) -> None:
        """Wait until the checkpoint is on the disk.

        Raises:
            OSError: it could not be written.
        """
        self._background.wait()

    def load(
        self,
        parts: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        *,
        step: int | None = None,
        verify: bool = True,
    ) -> dict[str, Any] | None:
        """Put back the newest checkpoint that is whole, and return its progress; None if there is none.

        A broken one is named in a warning and passed over. Everything is read and checked before anything is changed.
        The random generators are left to :meth:`restore_random`.

        Args:
            parts: what takes a state: those that were saved, or some of them.
            settings: must be equal to those in the progress.
            step: of the only checkpoint that will do.
            verify: compare the sha256 of the files; without it only their sizes, for very large ones.

        Raises:
            CorruptCheckpointError: there are checkpoints, and none is whole.
            UnsafeFileError: a file holds pickled objects.
            ValueError: the checkpoint is of another model, of other settings, or of a newer mmfuse.
        """
        self.wait()
        saved, number = self._find(step, verify)
        if saved is None:
            self._places.require_no_older()
            return None
        progress = put_together(saved.text["progress"], {})
        require_same_settings(self._places.folder.parent, progress.get("settings"), settings or {})
        put_back(parts, self._read(saved, parts))
        seed = (settings or {}).get("seed", 0)
        self._loaded = (seed, number, saved.random(self._processes.rank))
        self._whole = number
        return progress

    def restore_random(self, which: str = "now") -> None:
        """Put back the states of the random generators that :meth:`load` read: call it last, before the next batch.

        A process that was not there when they were saved gets states that seed, step and rank decide. Without a
        checkpoint nothing happens.
        """
        if self._loaded is None:
            return
        seed, step, states = self._loaded
        if which in states:
            restore_random_states(states[which])
        else:
            seed_everything(seed_of(seed, step, self._processes.rank, which))

    @property
    def steps(self) -> list[int]:
        """The numbers of all checkpoints that are there, broken ones too, the newest last."""
        return [number for number, _ in self._places.all()]

    def _find(self, step: int | None, verify: bool) -> tuple[Saved | None, int]:
        """The newest that is whole for all processes, and its number; each looks at some of the files."""
        processes = self._processes
        broken: list[str] = []
        listed = processes.first([number for pair in reversed(self._places.all()) for number in pair])
        pairs = [*zip(listed[::2], listed[1::2], strict=True)]
        if step is not None and step not in (number for number, _ in pairs):
            raise ValueError(
                f"{self._places.folder} has no checkpoint of {self._places.unit} {step}, only of "
                f"{sorted({number for number, _ in pairs})}. Expected one that is there. Choose one."
            )
        for number, repetition in pairs:
            if step not in (None, number):
                continue
            folder = self._places.path(number, repetition)
            files, problem = self._verify(folder, verify)
            if not (problems := processes.messages(problem)):
                self._warn(broken, folder)
                return Saved(folder, files), number
            broken.append(next(iter(problems.values())))
        if broken:
            raise CorruptCheckpointError(
                f"No checkpoint in {self._places.folder} is whole: {'; '.join(broken)}. Expected the files as they "
                "were written. Copy them again, or begin the run anew in another folder."
            )
        return None, 0

    def _read(self, saved: Saved, parts: Mapping[str, Any]) -> dict[str, Any]:
        """The state of each part, when all processes have read theirs."""
        states, error = {}, None
        try:
            states = read_states(saved, parts)
        except Exception as met:
            error = met
        self._processes.share(error, f"could not read {saved.folder}")
        return states

    def _verify(self, folder: Path, verify: bool) -> tuple[dict[str, Any], str | None]:
        try:
            files = files_of(folder)
        except CorruptCheckpointError as error:
            return {}, str(error).split(". Expected")[0]
        own = dict([*files.items()][self._processes.rank :: self._processes.world])
        return files, first_difference(folder, own, hashes=verify)

    def _warn(self, broken: list[str], instead: Path) -> None:
        if broken and self._processes.rank == 0:
            warnings.warn(
                f"A checkpoint is broken: {'; '.join(broken)}. Using {instead.name} instead.",
                stacklevel=4,
            )

    def _say_whole(self) -> str:
        unit, there = self._places.unit, self.steps
        if self._whole is not None:
            return f"The checkpoint of {unit} {self._whole} is whole."
        return f"That of {unit} {there[-1]} is as it was." if there else "There is none before it."


def _as_json(progress: Mapping[str, Any]) -> Any:
    tensors, text = take_apart(dict(progress), "progress")
    if tensors:
        raise TypeError(
            f"The progress of a checkpoint holds tensors: {[*tensors][:5]}. Expected numbers, text and lists. Put "
            "tensors in a part, or use tolist()."
        )
    return text
