"""A task that every modality learns to answer alone, too."""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from mmfuse._checks import require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features


@recorded
class EachModality(nn.Module):
    r"""Another task, whose head is trained on each modality's own token as well as on the fused vector.

    .. math::
        L = L(h) + \frac{\lambda}{n} \sum_{m\ \text{present}} L(h_m)

    Here :math:`h` is the fused vector, :math:`h_m` the token of modality m, n the number of modalities present and
    :math:`\lambda` the ``weight``. Answers, labels and metrics are those of the wrapped task on the fused vector. It
    asks for features with one token a modality, in the order of sorted names, such as those of
    :class:`mmfuse.fusion.LateFusion`::

        tasks = {"result": EachModality(Classification(256, classes), dims)}

    A prediction holds the wrapped task's predictions in its first half, ``prediction[:, 0]``, of shape
    ``(batch, 1 + modality, ...)``: first the fused one, then each modality's. The second half says which are real.

    Args:
        task: any task whose head reads the pooled vector.
        modalities: names of the modalities, or the ``dims`` that the fusion was built with.
        weight: of the mean loss of the modalities, beside that of the fused vector.
    """

    def __init__(self, task: nn.Module, modalities: Collection[str], *, weight: float = 1.0) -> None:
        super().__init__()
        if isinstance(modalities, str) or not modalities or len(set(modalities)) != len(modalities):
            raise ValueError(
                f"EachModality got modalities={modalities!r}. Expected different names, one or more. "
                "Give the dims that the fusion was built with."
            )
        require_positive("EachModality", weight=weight)
        self.task: Any = task
        self.modalities = sorted(modalities)
        self.weight = weight

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Those of the wrapped task."""
        return self.task.metric_names

    @property
    def lower_is_better(self) -> frozenset[str]:
        """Those of the wrapped task."""
        return self.task.lower_is_better

    @property
    def classes(self) -> list[str]:
        """Those of the wrapped task, if it has any."""
        return self.task.classes

    def forward(self, features: Features) -> Float[Tensor, "batch 2 rows ..."]:
        """Predictions for the fused vector and for each modality, and which of them are real."""
        self._require_tokens(features)
        real = features.zeroed()
        alone = self.task(Features.from_pooled(real.tokens.flatten(0, 1), real.mask.flatten()))
        alone = alone.unflatten(0, real.mask.shape)  # (batch, modality, ...)
        values = torch.cat([self.task(features)[:, None], alone], dim=1)
        there = torch.cat([features.present[:, None], features.mask], dim=1)
        there = there.reshape(*there.shape, *(1,) * (values.dim() - 2)).expand_as(values)
        return torch.stack([values, there.to(values.dtype)], dim=1)

    def loss(self, prediction: Float[Tensor, "batch 2 rows ..."], target: Shaped[Tensor, "batch ..."]) -> Tensor:
        """Loss of the fused prediction, and the mean loss of those of the present modalities, for each sample."""
        values, there = prediction.unbind(dim=1)
        present = there[:, 1:, None].flatten(2)[..., 0]  # (batch, modality)
        labels = target.repeat_interleave(len(self.modalities), dim=0)
        each = self.task.loss(values[:, 1:].flatten(0, 1), labels).unflatten(0, present.shape)
        alone = (each * present).sum(dim=1) / present.sum(dim=1).clamp_min(1)
        return self.task.loss(values[:, 0], target) + self.weight * alone

    def decode(self, prediction: Float[Tensor, "batch 2 rows ..."]) -> Float[Tensor, "batch ..."]:
        """The fused answer."""
        return self.task.decode(prediction[:, 0, 0])

    def decode_each(self, prediction: Float[Tensor, "batch 2 rows ..."]) -> dict[str, Float[Tensor, "batch ..."]]:
        """What each modality would answer alone; nothing to go by where it is absent."""
        return {name: self.task.decode(prediction[:, 0, 1 + m]) for m, name in enumerate(self.modalities)}

    def encode(self, cell: Any) -> Tensor:
        """As the wrapped task."""
        return self.task.encode(cell)

    def require_labels(self, values: Tensor) -> None:
        """As the wrapped task."""
        if hasattr(self.task, "require_labels"):
            self.task.require_labels(values)

    @property
    def mix(self) -> Any:
        """As the wrapped task, if its labels can be mixed."""
        return self.task.mix

    def blank(self) -> Tensor:
        """As the wrapped task."""
        return self.task.blank()

    def metrics(self, decoded: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """As the wrapped task."""
        return self.task.metrics(decoded, target)

    def report(self, decoded: np.ndarray, target: np.ndarray) -> str:
        """As the wrapped task."""
        return self.task.report(decoded, target)

    def answer(self, decoded: Any) -> dict[str, Any]:
        """As the wrapped task."""
        return self.task.answer(decoded)

    def _require_tokens(self, features: Features) -> None:
        if features.tokens.shape[1] != len(self.modalities):
            raise ValueError(
                f"EachModality got {features.tokens.shape[1]} tokens. Expected {len(self.modalities)}, one for each of "
                f"{self.modalities}. Use LateFusion or another fusion with one token a modality."
            )
