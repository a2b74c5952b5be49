"""One class out of several."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmfuse._checks import require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features
from mmfuse.tasks._classes import ClassNames


@recorded
class Classification(nn.Module):
    """Head, loss and answer of a single-label task, kept together so that they cannot disagree.

    Args:
        dim: width of the features.
        classes: names of the classes in their order (``table.classes(column)``), or how many there are.
    """

    metric_names = ("accuracy", "balanced_accuracy", "macro_f1")
    lower_is_better: frozenset[str] = frozenset()

    def __init__(self, dim: int, classes: Sequence[str] | int) -> None:
        super().__init__()
        require_positive("Classification", dim=dim)
        self._classes = ClassNames("Classification", classes, at_least=2)
        self.classify = nn.Linear(dim, len(self.classes))

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return self._classes.names

    def forward(self, features: Features) -> Float[Tensor, "batch class"]:
        """Logits."""
        return self.classify(features.pooled)

    def loss(self, logits: Float[Tensor, "batch class"], target: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Cross-entropy of each sample."""
        return F.cross_entropy(logits, target, reduction="none")

    def decode(self, logits: Float[Tensor, "batch class"]) -> Float[Tensor, "batch class"]:
        """Probabilities."""
        return logits.softmax(dim=-1)

    def encode(self, cell: str) -> Int[Tensor, ""]:
        """The number of a class, from its name."""
        return torch.tensor(self._classes.number(str(cell)))

    def blank(self) -> Int[Tensor, ""]:
        """What stands in for an unknown label."""
        return torch.tensor(0)

    def metrics(self, decoded: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Accuracy, balanced accuracy and macro F1 (over the classes that occur)."""
        from sklearn.metrics import accuracy_score, f1_score, recall_score

        chosen = decoded.argmax(axis=1)
        return {
            "accuracy": float(accuracy_score(target, chosen)),
            # Recall averaged over the classes in the labels: balanced accuracy, without its warning about the others.
            "balanced_accuracy": float(
                recall_score(target, chosen, average="macro", labels=np.unique(target), zero_division=0)
            ),
            "macro_f1": float(f1_score(target, chosen, average="macro", zero_division=0)),
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
