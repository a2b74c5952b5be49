"""Any number of labels at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmfuse._checks import require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features
from mmfuse.tasks._classes import ClassNames


@recorded
class MultiLabel(nn.Module):
    """Independent yes-or-no answers, one for each class.

    In a table, a cell holds the names that apply with ``separator`` between them; the separator alone says that none
    applies; an empty cell says that nobody knows.

    Args:
        dim: width of the features.
        classes: names of the classes in their order (``table.classes(column, separator="|")``), or how many.
        threshold: a class is answered where its probability is above this.
        separator: what stands between the names in a cell.
    """

    metric_names = ("micro_f1", "macro_f1", "exact_match")
    lower_is_better: frozenset[str] = frozenset()

    def __init__(self, dim: int, classes: Sequence[str] | int, *, threshold: float = 0.5, separator: str = "|") -> None:
        super().__init__()
        require_positive("MultiLabel", dim=dim)
        self._classes = ClassNames("MultiLabel", classes, at_least=1)
        self.threshold = threshold
        self.separator = separator
        self.classify = nn.Linear(dim, len(self.classes))

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        return self._classes.names

    def forward(self, features: Features) -> Float[Tensor, "batch class"]:
        """Logits."""
        return self.classify(features.pooled)

    def loss(
        self, logits: Float[Tensor, "batch class"], target: Float[Tensor, "batch class"]
    ) -> Float[Tensor, " batch"]:
        """Binary cross-entropy of each sample, averaged over the classes."""
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)

    def decode(self, logits: Float[Tensor, "batch class"]) -> Float[Tensor, "batch class"]:
        """Probabilities."""
        return logits.sigmoid()

    def encode(self, cell: str | Sequence[str] | Tensor | np.ndarray) -> Float[Tensor, " class"]:
        """Ones for the classes named in a cell, zeros for the others; or an array of ones and zeros as it is."""
        if isinstance(cell, Tensor | np.ndarray):
            return self._from_array(torch.as_tensor(cell))
        names = cell.split(self.separator) if isinstance(cell, str) else cell
        target = self.blank()
        for name in names:
            if str(name).strip():
                target[self._classes.number(str(name).strip())] = 1.0
        return target

    def encode_all(self, cells: Sequence[Any] | Tensor) -> Float[Tensor, "cell class"]:
        """Many cells at once; an array of zeros and ones as it is."""
        if isinstance(cells, Tensor) and cells.shape[1:] == (len(self.classes),):
            self.require_labels(cells)
            return cells.float()
        return torch.stack([self.encode(cell) for cell in cells])

    def _from_array(self, array: Tensor) -> Float[Tensor, " class"]:
        if array.shape != (len(self.classes),):
            raise ValueError(
                f"the labels have shape {tuple(array.shape)}. Expected ({len(self.classes)},), a 0 or 1 for each "
                "class. Name the classes that apply instead, or give a number for every class."
            )
        self.require_labels(array)
        return array.float()

    def require_labels(self, values: Tensor) -> None:
        """Raise ValueError unless these are zeros, ones or, for mixed labels, shares."""
        values = values.float()
        if outside := values[~((values >= 0) & (values <= 1))].flatten().tolist():
            raise ValueError(
                f"label {outside[0]} of {len(self.classes)} yes-or-no labels. Expected 0 or 1 for each class. "
                "Leave unknown labels out (None), and use Regression for numbers."
            )

    def mix(
        self, first: Float[Tensor, "batch class"], second: Float[Tensor, "batch class"], share: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch class"]:
        """So much of the first labels, and the rest of the second: the loss is linear in them."""
        return share[:, None] * first + (1 - share[:, None]) * second

    def blank(self) -> Float[Tensor, " class"]:
        """What stands in for unknown labels."""
        return torch.zeros(len(self.classes))

    def metrics(self, decoded: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Micro and macro F1 above the threshold, and the share of samples with every label right."""
        from sklearn.metrics import accuracy_score, f1_score

        chosen, target, labels = self._columns(decoded, target)
        return {
            "micro_f1": float(f1_score(target, chosen, average="micro", labels=labels, zero_division=0)),
            "macro_f1": float(f1_score(target, chosen, average="macro", labels=labels, zero_division=0)),
            "exact_match": float(accuracy_score(target, chosen)),
        }

    def report(self, decoded: np.ndarray, target: np.ndarray) -> str:
        """scikit-learn's report, class by class."""
        from sklearn.metrics import classification_report

        chosen, target, labels = self._columns(decoded, target)
        return str(classification_report(target, chosen, labels=labels, target_names=self.classes, zero_division=0))

    def _columns(self, decoded: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Answers and labels as scikit-learn reads them, and what to count: it takes one column for a choice of two."""
        chosen, labels = (decoded > self.threshold).astype(int), list(range(len(self.classes)))
        return chosen, target.astype(int), labels if len(labels) > 1 else [1]

    def answer(self, decoded: np.ndarray) -> dict[str, Any]:
        """The names above the threshold, and the probability of every class."""
        chosen = [name for name, p in zip(self.classes, decoded, strict=True) if p > self.threshold]
        every = {f"p({name})": float(p) for name, p in zip(self.classes, decoded, strict=True)}
        return {"": self.separator.join(chosen) or self.separator, **every}
