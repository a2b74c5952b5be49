"""What a run keeps on the disk: checkpoints, ``history.jsonl`` and ``run.json``."""

import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mmfuse.distributed import is_main
from mmfuse.training.checkpoints.checkpoint import Checkpoints
from mmfuse.training.course import course_of, tell_other_course
from mmfuse.training.progress import Progress, Restore
from mmfuse.training.run_record import write_run
from mmfuse.training.signals import Preempted

# Arguments of fit that the state holds: others would be ignored, or be a mixture of two runs.
HELD = ("learning_rate", "pretrained_learning_rate", "layer_decay", "weight_decay", "ema", "select", "seed")


class RunFolder:
    """The folder of a run, or nothing at all: then nothing is kept. A context that waits until all is on the disk.

    Args:
        folder: where the run is kept.
        keep: how many checkpoints.
        parts: what has a ``state_dict`` and changes in a run; None is passed over.
        arguments: of ``fit``.
        groups: of the optimizer.
    """

    def __init__(
        self,
        folder: str | Path | None,
        keep: int,
        parts: Mapping[str, Any],
        arguments: Mapping[str, Any],
        groups: Sequence[Mapping[str, Any]],
    ) -> None:
        self._checkpoints = None if folder is None else Checkpoints(folder, keep=keep)
        self._folder = folder
        self._parts = {name: part for name, part in parts.items() if part is not None}
        self._arguments = arguments
        trained = {group["name"]: len(group["params"]) for group in groups}
        fp16 = arguments["precision"] == "fp16"  # a scaler has a state, the others have none
        self._settings = {**{name: arguments[name] for name in HELD}, "fp16": fp16, "trained": trained}
        self._course: Mapping[str, Any] = {}

    @property
    def log(self) -> Path | None:
        """The file of the history; None for all processes but the first."""
        return None if self._folder is None or not is_main() else Path(self._folder) / "history.jsonl"

    def load(self, resume: bool) -> Restore | None:
        """Put back the state of the run that is in the folder, if there is one; what puts back the random states."""
        if self._checkpoints is None:
            return None
        if self._checkpoints.steps and not resume:
            raise ValueError(
                f"fit found a run in {self._folder}. Expected an empty folder, so that nothing is lost. "
                "Pass resume=True to go on with that run, or choose another folder."
            )
        self._require_outermost()
        self._course = course_of(self._arguments)
        found = self._checkpoints.load(self._parts, self._settings)
        tell_other_course(str(self._folder), (found or {}).get("course", {}), self._course, stacklevel=4)
        if is_main():
            write_run(self._folder, self._arguments)  # type: ignore[arg-type]
        return None if found is None else self._checkpoints.restore_random

    def _require_outermost(self) -> None:
        """Raise ValueError for a folder within that of a run: there is nothing to go on with, and all began anew."""
        folder = Path(self._folder).absolute()  # type: ignore[arg-type]
        for run, inside in zip(folder.parents, (folder, *folder.parents), strict=False):
            if inside.name in ("checkpoints", "best") and (run / "run.json").is_file():
                raise ValueError(
                    f"fit got folder={str(self._folder)!r}, which is a part of the run in {run}. Expected the folder "
                    "of a run. Give that one to go on with it, or another one."
                )

    def save(self, now: Progress) -> None:
        """Keep the state of now; it is written while the run goes on."""
        if self._checkpoints is not None:
            self._checkpoints.save(
                now.step, self._parts, {"settings": self._settings, "course": self._course}, random=now.random
            )

    def wait(self) -> None:
        """Wait until all is on the disk."""
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with nullcontext() if kind is None else suppress(OSError):  # what ends the run is more telling
            self.wait()

    def preempted(self, number: int, now: Progress) -> Preempted:
        """What ends a run that got a signal, when all is on the disk."""
        self.wait()
        now.clear()
        where = (
            f"is saved in {self._folder}. To go on, run the same with resume=True."
            if self._folder is not None
            else "is lost: fit got no folder. To be able to go on, give folder=... and resume=True."
        )
        message = f"{signal.Signals(number).name} stopped the run after step {now.step}, whose state {where}"
        if is_main():
            sys.stderr.write(f"{message}\n")  # Python says nothing about a SystemExit with a number
        return Preempted(number, message)
