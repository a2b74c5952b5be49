"""What happened in a run, an epoch a line."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfuse._checks import nearest
from mmfuse._files import plain
from mmfuse.training.log import read_lines

MEASURED = frozenset({"seconds", "samples_per_second", "wait_share", "memory_mb"})  # no two runs have the same


@dataclass
class History:
    """One mapping of numbers for each epoch, and which epoch was best.

    Names have the form ``train/result/loss``, ``validation/result/accuracy``, ``learning_rate``, ``seconds``.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None  # as counted in the entry "epoch", from 1

    def __getitem__(self, name: str) -> list[Any]:
        """One number over the epochs, to be plotted; NaN where an epoch lacks it."""
        if name not in self.names:
            raise KeyError(
                f"The history has no {name!r}. Expected one of {sorted(self.names)}.{nearest(name, self.names)}"
            )
        values = (epoch.get(name) for epoch in self.epochs)
        return [math.nan if value is None else value for value in values]

    @property
    def names(self) -> list[str]:
        """Everything that was recorded."""
        return list(dict.fromkeys(name for epoch in self.epochs for name in epoch))

    def save(self, path: str | Path) -> None:
        """Write it as JSON, with null for what is not finite."""
        Path(path).write_text(
            json.dumps(plain({"epochs": self.epochs, "best_epoch": self.best_epoch}), indent=1) + "\n"
        )

    @classmethod
    def load(cls, path: str | Path) -> "History":
        """The history of a run, also of one that is going on: from its ``history.jsonl``, or the folder that has it.

        Lines without an "epoch" are of single steps, and left out. A "best_epoch" is that of the last line.
        """
        path = Path(path)
        path = path / "history.jsonl" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no {path.name} in {path.parent}. Expected the folder that fit was given. Check the path."
            )
        lines = read_lines(path)
        rows = [{k: v for k, v in line.items() if k != "step"} for line in lines if "epoch" in line]
        best = [row.pop("best_epoch", None) for row in rows]
        return cls(rows, best[-1] if best else None)
