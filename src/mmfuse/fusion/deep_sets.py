"""Fusion of modalities as a set: each through a network of its own, pooled, and through one more."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_choice, require_dims, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.linear import unit_linear
from mmfuse.layers.masking import wide
from mmfuse.layers.modalities import read_pooled


@recorded
class DeepSets(nn.Module):
    r"""The modalities that are present are a set: encode each element, pool the set, decode the result.

    .. math::
        h = \rho\Bigl(\operatorname{pool}_{m\ \text{present}}\, \phi_m(x_m)\Bigr), \qquad
        \operatorname{pool} \in \{\text{mean}, \text{sum}, \max\}

    Here :math:`x_m` is the pooled vector of modality m, and :math:`\phi_m` and :math:`\rho` are MLPs of one hidden
    layer (GELU). The paper has one :math:`\phi` for all elements; modalities differ in width and meaning, so each has
    its own. The pooling is over modalities.

    Source: Zaheer, Kottur, Ravanbakhsh, Poczos, Salakhutdinov, Smola (2017), "Deep Sets",
    https://arxiv.org/abs/1703.06114, theorem 2.

    Reads: pooled vectors.

    Absent: an absent modality is no element of the set. The empty set pools to 0, so that a sample with nothing at all
    gives :math:`\rho(0)`.

    Cost: parameters and time grow as ``dim (sum of d_m) + (M + 2) dim^2``.

    Use: where any modalities may be absent, in use as in training. The mean keeps its scale whatever is there, the sum
    also says how much is there, the maximum keeps what is most marked in any. With the maximum, a modality that is
    nowhere the largest does not matter for that sample.

    Args:
        dims: width of each modality.
        dim: width of the hidden layers and of the fused vector.
        pool: "mean", "sum" or "max".
        dropout: between the layers of :math:`\rho`.

    Raises:
        ValueError: no modalities, a width that is not positive, an unknown ``pool``, or a dropout outside [0, 1).
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int, *, pool: str = "mean", dropout: float = 0.0) -> None:
        super().__init__()
        require_dims("DeepSets", dims, dim)
        require_choice("DeepSets", "pool", pool, ("mean", "sum", "max"))
        require_share("DeepSets", dropout=dropout)
        self.pool = pool
        self.phi = nn.ModuleDict(
            {
                name: nn.Sequential(unit_linear(width, dim), nn.GELU(), unit_linear(dim, dim))
                for name, width in dims.items()
            }
        )
        self.rho = nn.Sequential(unit_linear(dim, dim), nn.GELU(), nn.Dropout(dropout), unit_linear(dim, dim))

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, self.phi)  # present: (batch, modality)
        elements = torch.stack([self.phi[name](x) for name, x in inputs.items()], dim=1)  # (batch, modality, dim)
        pooled = _largest(elements, present) if self.pool == "max" else _total(elements, present, self.pool == "mean")
        return Fused(Features.from_pooled(self.rho(pooled), present.any(dim=1)))


def _total(
    elements: Float[Tensor, "batch modality dim"], present: Bool[Tensor, "batch modality"], mean: bool
) -> Float[Tensor, "batch dim"]:
    """Sum or mean of the elements that are there. What stands under False is finite, so a factor of 0 removes it."""
    every = wide(elements)
    share = present.to(every.dtype)
    if mean:
        share = share / share.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.einsum("bm,bmd->bd", share, every).to(elements.dtype)


def _largest(
    elements: Float[Tensor, "batch modality dim"], present: Bool[Tensor, "batch modality"]
) -> Float[Tensor, "batch dim"]:
    """Largest of the elements that are there; zeros where there is none."""
    largest = elements.masked_fill(~present[..., None], -torch.inf).amax(dim=1)
    return largest.masked_fill(~present.any(dim=1, keepdim=True), 0.0)
