"""One class out of several."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmfuse._checks import require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features
from mmfuse.tasks._classes import ClassNames
from mmfuse.tasks._single_label import SingleLabel

_NO_LABEL = -(2**62)


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

    def loss(
        self, logits: Float[Tensor, "batch class"], target: Int[Tensor, " batch"] | Float[Tensor, "batch class"]
    ) -> Float[Tensor, " batch"]:
        """Cross-entropy of each sample, with the number of its class or a share for each class."""
        # torch passes over the label -100 in silence unless another number is to be passed over.
        return F.cross_entropy(logits, target, reduction="none", ignore_index=_NO_LABEL)

    def mix(
        self,
        first: Int[Tensor, " batch"] | Float[Tensor, "batch class"],
        second: Int[Tensor, " batch"] | Float[Tensor, "batch class"],
        share: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch class"]:
        """Shares for each class: so much of the first label, and the rest of the second."""
        shares = [_as_shares(labels, len(self.classes), share.dtype) for labels in (first, second)]
        return share[:, None] * shares[0] + (1 - share[:, None]) * shares[1]

    def decode(self, logits: Float[Tensor, "batch class"]) -> Float[Tensor, "batch class"]:
        """Probabilities."""
        return logits.softmax(dim=-1)


def _as_shares(labels: Tensor, classes: int, dtype: torch.dtype) -> Float[Tensor, "batch class"]:
    """Labels as shares for each class; labels that were mixed before are that already."""
    return labels.to(dtype) if labels.dim() == 2 else F.one_hot(labels, classes).to(dtype)
