"""Fusion by low-rank bilinear pooling: one product of projections."""

import functools
from collections.abc import Mapping

import torch
from torch import nn

from mmfuse._checks import require_dims, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.linear import factor_linear, unit_linear
from mmfuse.layers.modalities import read_pooled


@recorded
class MLB(nn.Module):
    r"""Project each modality, multiply the projections coordinate by coordinate, and project the product.

    .. math::
        h = P \bigl(\tanh(U_1 x_1 + b_1) * \dots * \tanh(U_M x_M + b_M)\bigr) + c

    :math:`x_m` is the pooled vector of modality m; :math:`U_m` and :math:`b_m` are its layer ``project``, P and c the
    layer ``out``; * multiplies coordinates. The paper has two modalities, :math:`P (\tanh(U x) * \tanh(V y))`; more are
    multiplied in the same way. :math:`U_m x_m` and :math:`b_m` start with half of the variance of :math:`x_m` each, so
    that what each modality says alone comes through the product, too.

    Source: Kim, On, Lim, Kim, Ha and Zhang (2017), "Hadamard Product for Low-rank Bilinear Pooling",
    https://arxiv.org/abs/1610.04325.

    Reads: pooled vectors.

    Absent: its factor is 1, so that the product of the others remains; with no modality at all the product is 1.

    Cost: ``rank (sum of d_m + dim)`` parameters and as many multiplications per sample.

    Use: where modalities mean something together only, as a question and its picture do. One product a coordinate;
    :class:`MFB` and :class:`MUTAN` have more. With many modalities the product of as many tanh becomes small.

    Args:
        dims: width of each modality.
        dim: width of the fused vector.
        rank: width of the product; ``dim`` if None.
        dropout: of the product.

    Raises:
        ValueError: no modalities, a width or rank that is not positive, or a dropout outside [0, 1).
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int, *, rank: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        require_dims("MLB", dims, dim)
        rank = dim if rank is None else rank
        require_positive("MLB", rank=rank)
        require_share("MLB", dropout=dropout)
        self.project = nn.ModuleDict({name: factor_linear(width, rank) for name, width in dims.items()})
        self.dropout = nn.Dropout(dropout)
        self.out = unit_linear(rank, dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        pooled, present = read_pooled(features, self.project)
        # tanh(10000 + b) is 1, with slope 0, in every type: cheaper than to put the 1 in afterwards.
        far = 1e4 * (~present).to(self.out.weight.dtype)
        factors = [
            (self.project[name](x) + push).tanh()
            for (name, x), push in zip(pooled.items(), far.split(1, dim=1), strict=True)
        ]
        product = functools.reduce(torch.mul, factors)
        return Fused(Features.from_pooled(self.out(self.dropout(product)), present.any(dim=1)))
