"""One class out of several, with a measure of what is not known."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmfuse._checks import require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features
from mmfuse.tasks._classes import ClassNames
from mmfuse.tasks._single_label import SingleLabel


@recorded
class EvidentialClassification(SingleLabel):
    r"""Loss and answers for the evidence that :class:`mmfuse.fusion.EvidentialFusion` collects.

    .. math::
        L(\alpha) = \psi(S) - \psi(\alpha_y) + \lambda_t\, KL[D(\tilde\alpha) \,\|\, D(1)], \qquad
        \alpha = e + 1, \quad S = \sum_k \alpha_k, \quad \lambda_t = \min(1, t / T)

    Here :math:`e` is the evidence for each class, y the label, :math:`\psi` the digamma function, D the Dirichlet
    distribution and :math:`\tilde\alpha` the :math:`\alpha` with 1 in the place of the label: the second term takes
    away evidence for what is wrong, the more the longer training has run (t counts training batches). The loss of a
    sample is that of its combined evidence and that of each modality that it has, added up. A modality without evidence
    counts as absent. In evaluation :math:`\lambda = 1`, so that epochs compare.

    It has no weights of its own: the fusion has one head a modality. A prediction is ``(batch, 1 + modality, class +
    1)``: the combined evidence, then that of each modality; the last column is :math:`\lambda_t`.

    Source: Han, Zhang, Fu, Zhou (2021), "Trusted Multi-View Classification", https://arxiv.org/abs/2102.02051.

    Args:
        classes: names of the classes in their order (``table.classes(column)``), or how many there are.
        annealing: T, the number of training batches after which the second term counts in full.
    """

    step: Int[Tensor, ""]

    def __init__(self, classes: Sequence[str] | int, *, annealing: int = 1000) -> None:
        super().__init__()
        require_positive("EvidentialClassification", annealing=annealing)
        self._classes = ClassNames("EvidentialClassification", classes, at_least=2)
        self.annealing = annealing
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Features) -> Float[Tensor, "batch rows columns"]:
        """Evidence, combined and of each modality, and the weight of the second term of the loss."""
        if features.pooled.shape[1] != len(self.classes):
            raise ValueError(
                f"EvidentialClassification got evidence for {features.pooled.shape[1]} classes. Expected "
                f"{len(self.classes)}, one for each of its own. Use EvidentialFusion(dims, {len(self.classes)})."
            )
        if self.training:
            self.step += 1
        real = features.zeroed()
        evidence = torch.cat([real.pooled[:, None], real.tokens], dim=1)  # (batch, 1 + modality, class)
        weight = (self.step / self.annealing).clamp_max(1.0) if self.training else torch.ones_like(self.step)
        return torch.cat([evidence, weight.to(evidence.dtype).expand_as(evidence[..., :1])], dim=-1)

    def loss(
        self, prediction: Float[Tensor, "batch rows columns"], target: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Loss of the combined evidence and of each modality that has any, added up for each sample."""
        alpha = prediction[..., :-1] + 1
        label = target[:, None, None].expand_as(alpha[..., :1])
        fit = torch.digamma(alpha.sum(dim=-1)) - torch.digamma(alpha.gather(-1, label).squeeze(-1))
        each = fit + prediction[..., -1] * _divergence_from_uniform(alpha.scatter(-1, label, 1.0))
        counts = prediction[..., :-1].gt(0).any(dim=-1)  # (batch, 1 + modality)
        counts = torch.cat([torch.ones_like(counts[:, :1]), counts[:, 1:]], dim=1)
        return each.masked_fill(~counts, 0.0).sum(dim=1)

    def decode(self, prediction: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch class"]:
        """Expected probabilities of the combined opinion."""
        alpha = prediction[:, 0, :-1] + 1
        return alpha / alpha.sum(dim=-1, keepdim=True)

    def uncertainty(self, prediction: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch rows"]:
        """u = K / S, from 0 (certain) to 1 (nothing known): of the combined opinion, then of each modality's.

        The modalities stand in the order of their sorted names.
        """
        evidence = prediction[..., :-1]
        return evidence.shape[-1] / (evidence.sum(dim=-1) + evidence.shape[-1])


def _divergence_from_uniform(alpha: Float[Tensor, "*batch class"]) -> Float[Tensor, "*batch"]:
    r"""KL[D(alpha) || D(1)], in a form that stays exact where evidence is large.

    The closed form is a difference of values as large as S log S. With G(x) = log Gamma(x) - (x - 1) psi(x) + x it is
    G(S) + (K - 1) psi(S) - log Gamma(K) - sum of G(alpha_k): the large parts are gone, since S is the sum of alpha.
    """
    classes, total = alpha.shape[-1], alpha.sum(dim=-1)
    rest = (classes - 1) * torch.digamma(total) - math.lgamma(classes)
    return _slow_part(total) + rest - _slow_part(alpha).sum(dim=-1)


def _slow_part(x: Tensor) -> Tensor:
    """G(x), which grows as half a logarithm: as it stands for small x, by Stirling's series from 64 on."""
    small = x.clamp_max(64.0)
    exact = torch.lgamma(small) - (small - 1) * torch.digamma(small) + small
    large = x.clamp_min(64.0)
    y = 1 / large
    series = 0.5 * large.log() + 0.5 * math.log(2 * math.pi) + 0.5
    series = series - y * (1 / 3 + y * (1 / 12 + y * (1 / 90 - y * (1 / 120 + y / 210))))
    return torch.where(x < 64.0, exact, series)
