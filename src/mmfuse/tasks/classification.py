"""One class out of several."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmfuse._checks import require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features
from mmfuse.tasks._classes import ClassNames
from mmfuse.tasks._single_label import SingleLabel


@recorded
class Classification(SingleLabel):
    """Head, loss and answer of a single-label task, kept together so that they cannot disagree.

    Args:
        dim: width of the features.
        classes: names of the classes in their order (``table.classes(column)``), or how many there are.
    """

    def __init__(self, dim: int, classes: Sequence[str] | int) -> None:
        super().__init__()
        require_positive("Classification", dim=dim)
        self._classes = ClassNames("Classification", classes, at_least=2)
        self.classify = nn.Linear(dim, len(self.classes))

    def forward(self, features: Features) -> Float[Tensor, "batch class"]:
        """Logits."""
        return self.classify(features.pooled)

    def loss(self, logits: Float[Tensor, "batch class"], target: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Cross-entropy of each sample."""
        return F.cross_entropy(logits, target, reduction="none")

    def decode(self, logits: Float[Tensor, "batch class"]) -> Float[Tensor, "batch class"]:
        """Probabilities."""
        return logits.softmax(dim=-1)
