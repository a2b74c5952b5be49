"""What happened in a run, an epoch a line."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfuse._files import plain


@dataclass
class History:
    """One mapping of numbers for each epoch, and which epoch was best.

    Names have the form ``train/result/loss``, ``validation/result/accuracy``, ``learning_rate``, ``seconds``.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None  # as counted in the entry "epoch", from 1

    def __getitem__(self, name: str) -> list[float]:
        """One number over the epochs, to be plotted."""
        if not self.epochs or name not in self.epochs[-1]:
            known = sorted(self.epochs[-1]) if self.epochs else []
            raise KeyError(f"The history has no {name!r}. Expected one of {known}.")
        values = (epoch.get(name) for epoch in self.epochs)
        return [math.nan if value is None else value for value in values]

    @property
    def names(self) -> list[str]:
        """Everything that was recorded."""
        return list(self.epochs[-1]) if self.epochs else []

    def save(self, path: str | Path) -> None:
        """Write it as JSON, with null for what is not finite."""
        Path(path).write_text(
            json.dumps(plain({"epochs": self.epochs, "best_epoch": self.best_epoch}), indent=1) + "\n"
        )
