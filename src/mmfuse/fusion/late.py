"""Late fusion: each modality makes up its own mind, then the opinions are combined."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse._checks import require_choice, require_dims, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.masking import masked_softmax
from mmfuse.layers.modalities import by_name, read_pooled

COMBINE = ("mean", "weighted", "product")


@recorded
class LateFusion(nn.Module):
    r"""Decide with each modality alone, then average or multiply the decisions.

    .. math::
        h_m = \operatorname{MLP}_m(x_m), \qquad h = \sum_m a_m h_m, \qquad
        \text{so that}\quad W h + c = \sum_m a_m (W h_m + c) \quad\text{if}\quad \sum_m a_m = 1

    Here :math:`x_m` is the pooled vector of modality m. The head :math:`W, c` of a task is linear: on the fused vector
    it gives exactly the combination of what it gives on each modality's own vector, and as the last layer of
    :math:`\operatorname{MLP}_m` comes before it, each modality has a head of its own. For logits,

    * ``"mean"``: :math:`a_m = 1/n` for the n present: the mean of logits, the geometric mean of probabilities;
    * ``"weighted"``: :math:`a = \operatorname{softmax}_{m\ \text{present}}(w)` with one learned number per modality;
    * ``"product"``: :math:`a_m = 1`: the sum of logits, the product of probabilities. The bias c of the head counts
      once, as it must: it is what all modalities know before they look.

    ``Fused.weights`` are the :math:`a_m`, divided by n for ``"product"``. The tokens are the :math:`h_m`, one for each
    modality, in the order of their sorted names: :class:`mmfuse.tasks.EachModality` trains the head on each of them.

    Source: folklore; rules of combination by Kittler, Hatef, Duin, Matas (1998), "On Combining Classifiers",
    https://doi.org/10.1109/34.667881.

    Reads: pooled vectors.

    Absent: an absent modality has no opinion: the mean, sum or product is over those present. A sample with nothing at
    all gives zeros.

    Cost: parameters and time grow as ``dim (sum of d_m) + M dim^2``.

    Use: as the second baseline, with ``EachModality`` around the task: without losses of their own the weaker
    modalities stay untrained. Decisions are only added up, so what lies in a combination of modalities is not seen.

    Args:
        dims: width of each modality.
        dim: width of each modality's vector and of the fused one.
        combine: "mean", "weighted" or "product".
        dropout: between the layers of each MLP.

    Raises:
        ValueError: no modalities, a width that is not positive, another ``combine``, or a dropout outside [0, 1).
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int, *, combine: str = "mean", dropout: float = 0.0) -> None:
        super().__init__()
        require_dims("LateFusion", dims, dim)
        require_choice("LateFusion", "combine", combine, COMBINE)
        require_share("LateFusion", dropout=dropout)
        self.combine = combine
        self.decide = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(dims[name], dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, dim))
                for name in sorted(dims)
            }
        )
        if combine == "weighted":
            self.score = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in sorted(dims)})

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, self.decide)  # present: (batch, modality)
        tokens = torch.stack([self.decide[name](x) for name, x in inputs.items()], dim=1)  # (batch, modality, dim)
        weights = masked_softmax(self._scores(tokens).expand(present.shape), present)
        shares = present.to(tokens.dtype) if self.combine == "product" else weights.to(tokens.dtype)
        pooled = torch.bmm(shares[:, None], tokens).squeeze(1)
        return Fused(Features(tokens, present, pooled), weights=by_name(inputs, weights))

    def _scores(self, like: Tensor) -> Tensor:
        """One number for each modality; zeros give equal weights."""
        if self.combine == "weighted":
            return torch.stack([self.score[name] for name in self.decide])
        return like.new_zeros(len(self.decide))
