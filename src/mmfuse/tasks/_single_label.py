"""What every task with one class out of several does with its answers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from mmfuse.tasks._classes import ClassNames


class SingleLabel(nn.Module):
    """Abstract: names, labels, metrics and answers of a task whose decoded answer is a probability for each class."""

    metric_names = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc")
    lower_is_better: frozenset[str] = frozenset()
    _classes: ClassNames

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the probabilities."""
        return self._classes.names

    def encode(self, cell: Any) -> Int[Tensor, ""]:
        """The number of a class, from its name."""
        return torch.tensor(self._classes.number(str(cell)))

    def encode_all(self, cells: Sequence[Any]) -> Int[Tensor, " cell"]:
        """The numbers of many classes at once."""
        return torch.tensor([self._classes.number(str(cell)) for cell in cells], dtype=torch.int64)

    def require_labels(self, values: Tensor) -> None:
        """Raise ValueError unless these are numbers of classes."""
        last = len(self.classes) - 1
        if values.is_floating_point() or values.dtype == torch.bool:
            raise ValueError(f"a label is {values.dtype}. Expected integers from 0 to {last}. Use label.long().")
        if outside := values[(values < 0) | (values > last)].tolist():
            raise ValueError(
                f"label {outside[0]} is not a class. Expected 0 to {last} ({last + 1} classes). "
                "Leave an unknown label out (None) instead of giving it a number."
            )

    def blank(self) -> Int[Tensor, ""]:
        """What stands in for an unknown label."""
        return torch.tensor(0)

    def metrics(self, decoded: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Accuracy, balanced accuracy, macro F1 (over the classes that occur), Matthews' correlation, and AUROC.

        AUROC is that of the second of two classes; of more classes, the mean of each against the rest. It is NaN unless
        every class is among the labels, and the correlation is NaN if only one is.
        """
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, recall_score

        chosen = decoded.argmax(axis=1)
        return {
            "accuracy": float(accuracy_score(target, chosen)),
            # Recall averaged over the classes in the labels: balanced accuracy, without its warning about the others.
            "balanced_accuracy": float(
                recall_score(target, chosen, average="macro", labels=np.unique(target), zero_division=0)
            ),
            "macro_f1": float(f1_score(target, chosen, average="macro", zero_division=0)),
            "mcc": float(matthews_corrcoef(target, chosen)) if (target != target[0]).any() else math.nan,
            "auroc": _auroc(decoded, target),
        }

    def report(self, decoded: np.ndarray, target: np.ndarray) -> str:
        """scikit-learn's report, class by class."""
        from sklearn.metrics import classification_report

        numbers = range(len(self.classes))
        return str(
            classification_report(
                target, decoded.argmax(axis=1), labels=numbers, target_names=self.classes, zero_division=0
            )
        )

    def answer(self, decoded: np.ndarray) -> dict[str, Any]:
        """The class, its probability, and the probability of every class."""
        best = int(decoded.argmax())
        every = {f"p({name})": float(p) for name, p in zip(self.classes, decoded, strict=True)}
        return {"": self.classes[best], "probability": float(decoded[best]), **every}


def _auroc(decoded: np.ndarray, target: np.ndarray) -> float:
    """Area under the ROC curve, one class against the rest; NaN if a class does not occur."""
    from sklearn.metrics import roc_auc_score

    classes = decoded.shape[1]
    if len(np.unique(target)) < classes:
        return math.nan
    ranked = range(classes) if classes > 2 else (1,)
    return float(np.mean([roc_auc_score(target == number, decoded[:, number]) for number in ranked]))
