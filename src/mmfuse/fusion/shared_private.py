"""Fusion of what modalities have in common and what each has alone."""

import itertools
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_not_negative, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import require_heads
from mmfuse.layers.masking import mean_of_real, wide
from mmfuse.layers.modalities import read_pooled
from mmfuse.layers.transformer import SelfBlock

MOMENTS = 5


@recorded
class SharedPrivate(nn.Module):
    r"""Encode each modality twice, as what all share and what it has alone, and fuse both by self-attention (MISA).

    .. math::
        u_m = \operatorname{LN}(\operatorname{ReLU}(P_m x_m)), \quad h^c_m = \sigma(E_c u_m), \quad
        h^p_m = \sigma(E_{p,m} u_m), \qquad
        h = \operatorname{MLP}(\operatorname{Transformer}([h^c_1; \dots; h^c_M; h^p_1; \dots; h^p_M]))

    Here :math:`x_m` is the pooled vector of modality m, :math:`E_c` the encoder that all modalities share and
    :math:`E_{p,m}` the private one of modality m. The transformer is one layer over the 2M vectors; its outputs are
    concatenated for the MLP. Three penalties, each with its weight, keep the spaces apart (``n`` samples have both
    modalities of a pair; a pair that no sample has counts for nothing):

    * ``"similarity"``: the central moment discrepancy :math:`\sum_{k=1}^{5} \lVert C_k(h^c_m) - C_k(h^c_n) \rVert_2`
      with :math:`C_1` the mean and :math:`C_k` the k-th central moments over samples; the mean over pairs;
    * ``"difference"``: :math:`\lVert \tfrac1n \tilde H^\top \tilde H' \rVert_F^2`, summed over the shared and private
      vectors of each modality and over the private ones of each pair, the rows of :math:`\tilde H` being the samples'
      vectors less their mean, with unit length;
    * ``"reconstruction"``: :math:`\lVert u_m - D(h^c_m + h^p_m) \rVert^2 / d`, the mean over present modalities, with
      one linear decoder D.

    We deviate in this: 1/n in the difference (without it the penalty grows with the square of the batch), layer norm
    before attention, not after, GELU in the MLP.

    Source: Hazarika, Zimmermann, Poria (2020), "MISA: Modality-Invariant and -Specific Representations for Multimodal
    Sentiment Analysis", https://arxiv.org/abs/2005.03545; the discrepancy is of Zellinger et al. (2017),
    https://arxiv.org/abs/1702.08811. The default weights are those of the authors' code.

    Reads: pooled vectors.

    Absent: an absent modality gives no vectors to attend to, and in their two places before the MLP stand learned
    ones. It has no part in any penalty. A sample with nothing at all gives what the learned vectors give.

    Cost: parameters and time grow as ``dim (sum of d_m) + 3 M dim^2``, and the transformer's as ``M`` times
    ``24 dim^2`` (``12 dim^2`` parameters); the difference takes ``M^2 / 2`` products of ``dim`` by batch by ``dim``.

    Use: where modalities tell the same story in part, and batches are large enough for moments (32 and more).

    Args:
        dims: width of each modality.
        dim: width of all vectors.
        num_heads: heads of the transformer; must divide ``dim``.
        similarity: weight of that penalty.
        difference: weight of that penalty.
        reconstruction: weight of that penalty.
        dropout: in the transformer and the MLP.

    Raises:
        ValueError: no modalities, a width that is not positive, a ``dim`` that the heads cannot share, a negative
            weight, or a dropout outside [0, 1).
    """

    reads = "pooled"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int,
        *,
        num_heads: int = 2,
        similarity: float = 1.0,
        difference: float = 0.3,
        reconstruction: float = 1.0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_dims("SharedPrivate", dims, dim)
        require_heads("SharedPrivate", dim, num_heads)
        weights = {"similarity": similarity, "difference": difference, "reconstruction": reconstruction}
        require_not_negative("SharedPrivate", **weights)
        require_share("SharedPrivate", dropout=dropout)
        self.penalty_weights = weights
        self.project = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.LayerNorm(dim)) for name, width in dims.items()}
        )
        self.shared = nn.Sequential(nn.Linear(dim, dim), nn.Sigmoid())
        self.private = nn.ModuleDict({name: nn.Sequential(nn.Linear(dim, dim), nn.Sigmoid()) for name in dims})
        self.decode = nn.Linear(dim, dim)
        self.transformer = SelfBlock(dim, num_heads, dropout=dropout)
        # The first row stands for the shared vector, the second for the private one.
        self.absent = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(2, dim)) for name in dims})
        self.mix = nn.Sequential(
            nn.Linear(2 * len(dims) * dim, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, dim)
        )

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, self.project)  # present: (batch, modality)
        projected = torch.stack([self.project[name](x) for name, x in inputs.items()], dim=1)
        shared = self.shared(projected)  # (batch, modality, dim)
        private = torch.stack(
            [self.private[name](u) for name, u in zip(inputs, projected.unbind(dim=1), strict=True)], dim=1
        )
        there = torch.cat([present, present], dim=1)  # (batch, 2 modality)
        fused = self.transformer(torch.cat([shared, private], dim=1), there)
        absent = torch.stack([self.absent[name] for name in inputs], dim=1).flatten(0, 1)  # (2 modality, dim)
        pooled = self.mix(torch.where(there[..., None], fused, absent.to(fused.dtype)).flatten(1))
        rebuilt = self.decode(shared + private)
        return Fused(
            Features.from_pooled(pooled, present.any(dim=1)),
            penalties=self._penalties(wide(projected), wide(shared), wide(private), wide(rebuilt), present),
        )

    def _penalties(
        self, projected: Tensor, shared: Tensor, private: Tensor, rebuilt: Tensor, present: Tensor
    ) -> dict[str, Tensor]:
        pairs = list(itertools.combinations(range(present.shape[1]), 2))
        first, second = [i for i, _ in pairs], [j for _, j in pairs]
        both = present[:, first] & present[:, second]  # (batch, pair)
        left = torch.cat([shared, private[:, first]], dim=1)
        right = torch.cat([private, private[:, second]], dim=1)
        values = {
            "similarity": _discrepancy(shared[:, first], shared[:, second], both),
            "difference": _overlap(left, right, torch.cat([present, both], dim=1)),
            "reconstruction": mean_of_real((projected - rebuilt).square().mean(dim=2), present),
        }
        return {name: self.penalty_weights[name] * value for name, value in values.items()}


def _discrepancy(
    left: Float[Tensor, "batch pair dim"], right: Float[Tensor, "batch pair dim"], both: Bool[Tensor, "batch pair"]
) -> Float[Tensor, ""]:
    """Central moment discrepancy of each pair that some sample has, and their mean; values are from 0 to 1."""
    means, centred = zip(*(_centred(x, both) for x in (left, right)), strict=True)
    distance = torch.linalg.vector_norm(means[0] - means[1], dim=-1)  # (pair,)
    powers, count = centred, both.sum(dim=0).clamp_min(1)[:, None]
    for _ in range(2, MOMENTS + 1):
        powers = tuple(power * x for power, x in zip(powers, centred, strict=True))
        distance = distance + torch.linalg.vector_norm((powers[0] - powers[1]).sum(dim=0) / count, dim=-1)
    return mean_of_real(distance, both.any(dim=0))


def _overlap(
    left: Float[Tensor, "batch pair dim"], right: Float[Tensor, "batch pair dim"], both: Bool[Tensor, "batch pair"]
) -> Float[Tensor, ""]:
    """How far the spaces of each pair are from orthogonal, summed over the pairs."""
    units = []
    for x in (left, right):
        _, centred = _centred(x, both)
        units.append(centred / (torch.linalg.vector_norm(centred, dim=2, keepdim=True) + 1e-6))
    product = torch.einsum("bpd,bpe->pde", *units) / both.sum(dim=0).clamp_min(1)[:, None, None]
    return product.square().sum()


def _centred(values: Float[Tensor, "batch pair dim"], real: Bool[Tensor, "batch pair"]) -> tuple[Tensor, Tensor]:
    """The mean over the real samples, and what differs from it; zeros where not real."""
    mean = values.masked_fill(~real[..., None], 0.0).sum(dim=0) / real.sum(dim=0).clamp_min(1)[:, None]
    return mean, (values - mean).masked_fill(~real[..., None], 0.0)
