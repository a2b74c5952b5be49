"""Evidential fusion: each modality says what it believes and how much it does not know."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmfuse._checks import require_dims
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.masking import wide
from mmfuse.layers.modalities import by_name, read_pooled


@recorded
class EvidentialFusion(nn.Module):
    r"""Collect evidence for each class from each modality, and combine the opinions by Dempster's rule.

    .. math::
        e^m = \operatorname{softplus}(W_m x_m + c_m), \quad b^m_k = \frac{e^m_k}{S^m}, \quad u^m = \frac{K}{S^m}, \quad
        S^m = \sum_k e^m_k + K, \qquad
        b_k = \frac{b^1_k b^2_k + b^1_k u^2 + b^2_k u^1}{1 - C}, \quad u = \frac{u^1 u^2}{1 - C}

    Here :math:`x_m` is the pooled vector of modality m, K the number of classes, :math:`b^m_k` the belief of modality m
    in class k, :math:`u^m` what it leaves open, and :math:`C = \sum_{i \ne j} b^1_i b^2_j` the conflict. The rule is
    associative and commutative. For opinions of this kind any number of them combine in one step, without the conflict,
    which near 1 would leave nothing to divide by:

    .. math::
        e_k = K \Bigl(\prod_m \Bigl(1 + \frac{e^m_k}{K}\Bigr) - 1\Bigr), \qquad b_k = \frac{e_k}{S}, \quad
        u = \frac{K}{S}, \quad S = \sum_k e_k + K

    The pooled vector is the combined evidence :math:`e`; the tokens are the :math:`e^m`, one for each modality, in the
    order of their sorted names. :class:`mmfuse.tasks.EvidentialClassification` turns them into a loss and answers.
    ``Fused.weights`` are shares of what each modality knows: :math:`1 - u^m`, divided by their sum. All :math:`W_m` and
    :math:`c_m` are 0 at initialisation: wrong evidence for some classes would take long to unlearn.

    Source: Han, Zhang, Fu, Zhou (2021), "Trusted Multi-View Classification", https://arxiv.org/abs/2102.02051; the
    opinions are those of Sensoy, Kaplan, Kandemir (2018), https://arxiv.org/abs/1806.01768.

    Reads: pooled vectors.

    Absent: an absent modality has the vacuous opinion (evidence 0, u = 1), which changes no other: exact. A sample with
    nothing at all knows nothing: evidence 0 for every class.

    Cost: parameters and time grow as ``K (sum of d_m)``.

    Use: for one class out of several, where an answer must say how far it can be trusted, or modalities differ in
    quality from sample to sample. ``dim`` is the number of classes, and the task is ``EvidentialClassification``. Each
    modality decides alone: what lies in a combination of them is not seen. Evidence grows slowly, and the penalty on
    evidence for wrong classes takes it from a noisy modality: where all are noisy, expect several times the epochs of
    a weighted average, and less accuracy.

    Args:
        dims: width of each modality.
        dim: number of classes.

    Raises:
        ValueError: no modalities, or a width that is not positive.
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int) -> None:
        super().__init__()
        require_dims("EvidentialFusion", dims, dim)
        self.judge = nn.ModuleDict({name: nn.Linear(dims[name], dim) for name in sorted(dims)})
        for parameter in self.judge.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, self.judge)  # present: (batch, modality)
        logits = torch.stack([self.judge[name](x) for name, x in inputs.items()], dim=1)
        evidence = F.softplus(wide(logits)) * present[..., None]  # (batch, modality, class)
        pooled = _combine(evidence, logits.dtype)
        # A little for each of those present, or nobody would have a share where nobody knows anything.
        known = (1 - _uncertainty(evidence)).clamp_min(1e-12).masked_fill(~present, 0.0)
        shares = known / known.sum(dim=1, keepdim=True).clamp_min(1e-12)
        fused = Features(evidence.to(logits.dtype), present, pooled.to(logits.dtype))
        return Fused(fused, weights=by_name(inputs, shares.to(logits.dtype)))


def _combine(evidence: Float[Tensor, "batch modality class"], dtype: torch.dtype) -> Float[Tensor, "batch class"]:
    """Dempster's rule for two opinions, e + f + e f / K, and so on: nothing cancels, and no logarithm is taken.

    Evidence is held so low that its sum over the classes is a finite number of the given type.
    """
    classes = evidence.shape[2]
    highest = torch.finfo(dtype).max / (4 * classes)
    first, *others = evidence.unbind(dim=1)
    whole = first.clamp_max(highest)
    for other in others:
        whole = torch.addcmul(whole + other, whole, other, value=1 / classes).clamp_max(highest)
    return whole


def _uncertainty(evidence: Float[Tensor, "*batch class"]) -> Float[Tensor, "*batch"]:
    """u = K / S."""
    classes = evidence.shape[-1]
    return classes / (evidence.sum(dim=-1) + classes)
