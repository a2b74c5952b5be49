"""Which epoch was best, and its weights."""

import math
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from mmfuse._checks import nearest
from mmfuse._files import read_json
from mmfuse.model import MultimodalModel
from mmfuse.training.checkpoints.checkpoint import Checkpoints


class Best:
    """Which epoch was best by the validation, and its weights: ``folder/best/epoch-00000003``, or in memory.

    It is a part of the checkpoints. Weights stay as long as one of them says that theirs was the best epoch, so a run
    that goes on from an older checkpoint finds what was the best then.

    Args:
        model: whose weights are kept.
        select: number of the validation report: "loss" or "task/metric".
        folder: of the run; None: in memory.
    """

    def __init__(self, model: MultimodalModel, select: str, folder: str | Path | None) -> None:
        names = ["loss", *(f"{task}/loss" for task in model.tasks)]
        names += [
            f"{name}/{metric}" for name, task in model.tasks.items() for metric in getattr(task, "metric_names", ())
        ]
        if select not in names:
            raise ValueError(f"fit got select={select!r}. Expected one of {names}.{nearest(select, names)}")
        self.model = model
        self.select = select
        self._kept: Checkpoints | None = None
        if folder is not None:
            self._kept = Checkpoints(
                folder, keep=1, name="best", unit="epoch", needed=lambda: best_epochs(Path(folder))
            )
        self.epoch: int | None = None
        self.score: float | None = None
        self._looked = False  # whether there was a score, which may have been NaN
        self._weights: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Which epoch was best, and its score."""
        return {"epoch": self.epoch, "score": self.score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        self.epoch, self.score = state["epoch"], state["score"]

    def look(self, epoch: int, numbers: dict[str, float]) -> None:
        """Keep this epoch if it is the best so far."""
        if self.select not in numbers:
            raise ValueError(
                f"fit got select={self.select!r}, but no validation sample has a known label for it. Expected one of "
                f"{list(numbers)}. Give validation batches that have such labels."
            )
        if epoch == 1 and self.select == "loss":
            self._tell_unscored(numbers)
        self._looked = True
        score = numbers[self.select] if self._lower_is_better() else -numbers[self.select]
        if not math.isnan(score) and (self.score is None or score < self.score):
            self.epoch, self.score = epoch, score
            if self._kept is None:
                self._weights = {name: x.detach().clone() for name, x in self.model.state_dict().items()}

    def _tell_unscored(self, numbers: dict[str, float]) -> None:
        """Warn, in the name of who calls fit, of tasks without a label in the validation batches."""
        unscored = [name for name in self.model.tasks if f"{name}/loss" not in numbers]
        if unscored:
            warnings.warn(
                f"The validation batches have no label of {unscored}: the best epoch is chosen without. Expected "
                "labels of every task. Add the column to the validation table.",
                stacklevel=4,
            )

    def is_stale(self, epoch: int, patience: int | None) -> bool:
        """Whether ``patience`` epochs have passed without a better one; one whose score is NaN is not better."""
        return patience is not None and epoch - (self.epoch or 0) > patience

    def save_if_new(self, epoch: int) -> None:
        """Write the weights if this epoch is the best. They are on the disk before a checkpoint refers to them."""
        if self._kept is not None and epoch == self.epoch:
            self._kept.save(epoch, {"model": self.model}, {"score": self.score, "select": self.select})
            self._kept.wait()

    def restore(self) -> None:
        """Give the model the weights of its best epoch; those of now, with a warning, if every score was NaN."""
        if self._looked and self.epoch is None:
            warnings.warn(
                f"No epoch could be chosen: {self.select!r} was NaN in each, so the model has its last weights. "
                "Expected a validation set for which it is defined. Choose by another number, such as select='loss'.",
                stacklevel=3,
            )
        if self.epoch is not None and self._kept is not None:
            self._kept.load({"model": self.model}, step=self.epoch)
        elif self.epoch is not None:
            self.model.load_state_dict(self._weights)

    def _lower_is_better(self) -> bool:
        task, _, metric = self.select.rpartition("/")
        return metric == "loss" or metric in self.model.tasks[task].lower_is_better  # type: ignore[operator]


def best_epochs(folder: Path) -> set[int]:
    """The best epochs that the checkpoints of a run refer to."""
    epochs: set[int | None] = set()
    for path in folder.glob("checkpoints/step-*/state.json"):
        try:
            epochs.add(read_json(path)["parts"]["best"]["epoch"])
        except (ValueError, KeyError):
            continue  # it is broken: nothing goes on from it
    return {epoch for epoch in epochs if epoch is not None}  # before the first validation there is none
