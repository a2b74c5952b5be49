"""Fusion by the outer product of all modalities, with its weights in factors, so that the product is never built."""

import functools
from collections.abc import Mapping

import torch
from torch import nn

from mmfuse._checks import require_dims, require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.linear import factor_linear
from mmfuse.layers.modalities import read_pooled


@recorded
class LowRankFusion(nn.Module):
    r"""Map each modality, with a 1 appended, to ``rank`` vectors, multiply over modalities, and add up over ranks.

    .. math::
        h = \sum_{r=1}^{R} w_r \prod_{m=1}^{M} W_m^{(r)} [x_m; 1] + b

    The same as :class:`TensorFusion` where its W is a sum of R products, one factor for each modality and each
    coordinate of h. ``factor[m]`` is a linear layer: its weight, as (rank, dim, d_m), holds :math:`W_m^{(r)}` without
    the last column, and its bias, as (rank, dim), that column, which meets the 1. Weight and bias start with half of
    the variance each, so that the product has variance 1 for inputs of variance 1 with any number of modalities, and
    terms of all orders have equal shares.

    Source: Liu, Shen, Lakshminarasimhan, Liang, Zadeh and Morency (2018), "Efficient Low-rank Multimodal Fusion with
    Modality-Specific Factors", https://arxiv.org/abs/1806.00064; :math:`w_r` and b as in the authors' code.

    Reads: pooled vectors.

    Absent: it is [0; 1], so that its factor is its last column and all terms without it remain (a zero would take all
    others with it); with none at all, the product of these columns.

    Cost: ``rank dim`` times the sum of all (d_m + 1) parameters and multiplications per sample: linear in modalities.

    Use: as :class:`TensorFusion`, for wide or many modalities. A product of many factors has a long tail: beyond four
    or five modalities lower the learning rate.

    Args:
        dims: width of each modality.
        dim: width of the fused vector.
        rank: number of products added up.

    Raises:
        ValueError: no modalities, or a width or rank that is not positive.
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int, *, rank: int = 4) -> None:
        super().__init__()
        require_dims("LowRankFusion", dims, dim)
        require_positive("LowRankFusion", rank=rank)
        self.factor = nn.ModuleDict({name: factor_linear(width, rank * dim) for name, width in dims.items()})
        self.weights = nn.Parameter(torch.full((rank,), rank**-0.5))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Mapping[str, Features]) -> Fused:
        pooled, present = read_pooled(features, self.factor)
        factors = [self.factor[name](x) for name, x in pooled.items()]  # (batch, rank * dim)
        products = functools.reduce(torch.mul, factors).unflatten(1, (len(self.weights), -1))  # (batch, rank, dim)
        weights = self.weights.expand(products.shape[0], 1, -1)
        h = torch.baddbmm(self.bias, weights, products).squeeze(1)
        return Fused(Features.from_pooled(h, present.any(dim=1)))
