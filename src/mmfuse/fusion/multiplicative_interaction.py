"""Fusion of two modalities by a bilinear form with all terms of lower order."""

from collections.abc import Mapping

import torch
from torch import nn

from mmfuse._checks import require_positive, require_two
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.linear import unit_linear
from mmfuse.layers.modalities import read_pooled
from mmfuse.layers.outer import contract


@recorded
class MultiplicativeInteraction(nn.Module):
    r"""A bilinear form of the two modalities, plus a linear map of each.

    .. math::
        h = z^\top \mathbb{W} x + U z + V x + b

    z is the first modality of ``dims``, x the second; :math:`\mathbb{W}` is (d_z, d_x, dim). Seen from x, z generates
    the weights of a linear layer, :math:`h = (z^\top \mathbb{W} + V) x + (U z + b)`: a hypernetwork. At 768, 768 and
    512, :math:`\mathbb{W}` would have 302 million numbers, so by default it is kept in factors, :math:`z^\top
    \mathbb{W} x = (A z)^\top \mathbb{W}' (B x)` with ``rank`` rows in A and in B: the same equation with a bound on
    the ranks of :math:`\mathbb{W}`. ``rank=None`` is the paper's form. A modality no wider than ``rank`` has no such
    matrix. At the start the product, U z and V x have a third of the variance each.

    Source: Jayakumar, Czarnecki, Menick, Schwarz, Rae, Osindero, Teh, Harley and Pascanu (2020), "Multiplicative
    Interactions and Where to Find Them", https://openreview.net/forum?id=rylnK6VtDH.

    Reads: pooled vectors, two modalities.

    Absent: it is the zero vector, so that the linear map of the other and b remain; with none at all, b.

    Cost: ``(d_1 + d_2) (rank + dim) + rank^2 dim`` parameters and as many multiplications per sample; without
    ``rank``, ``d_1 d_2 dim``. No product of the whole batch is built in three dimensions beyond one matrix product.

    Use: for two modalities of which one says how to read the other, as an instruction does; the linear terms leave
    addition open to it. For more modalities, :class:`TensorFusion`.

    Args:
        dims: width of each of the two modalities.
        dim: width of the fused vector.
        rank: width to which each modality is projected for the product; None: not projected.

    Raises:
        ValueError: not two modalities, or a width or rank that is not positive.
    """

    reads = "pooled"
    num_modalities = 2

    def __init__(self, dims: Mapping[str, int], dim: int, *, rank: int | None = 64) -> None:
        super().__init__()
        require_two("MultiplicativeInteraction", dims, dim, instead="TensorFusion")
        if rank is not None:
            require_positive("MultiplicativeInteraction", rank=rank)
        widths = {name: width if rank is None else min(rank, width) for name, width in dims.items()}
        self.project = nn.ModuleDict(
            {
                name: unit_linear(width, widths[name], bias=False) if widths[name] < width else nn.Identity()
                for name, width in dims.items()
            }
        )
        left, right = widths.values()
        self.product = nn.Parameter(torch.randn(left, right, dim) * (3 * left * right) ** -0.5)
        self.linear = nn.ModuleDict(
            {name: unit_linear(width, dim, bias=False, gain=3**-0.5) for name, width in dims.items()}
        )
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Mapping[str, Features]) -> Fused:
        pooled, present = read_pooled(features, self.linear)
        product = contract(self.product, [self.project[name](x) for name, x in pooled.items()])
        left, right = (self.linear[name](x) for name, x in pooled.items())
        return Fused(Features.from_pooled(product + left + right + self.bias, present.any(dim=1)))
