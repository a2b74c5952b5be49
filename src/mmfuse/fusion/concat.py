"""Fusion by concatenation: pooled vectors, side by side, through an MLP."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmfuse._checks import require_dims, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.linear import either, linear_or
from mmfuse.layers.modalities import read_pooled


@recorded
class Concat(nn.Module):
    r"""Project each modality, concatenate, and mix with an MLP of one hidden layer.

    .. math::
        h = \operatorname{MLP}([P_1 x_1; \dots; P_M x_M]), \qquad
        \operatorname{MLP}(z) = W_2 \operatorname{dropout}(\operatorname{GELU}(W_1 z + b_1)) + b_2

    Here :math:`x_m` is the pooled vector of modality m and :math:`P_m` its projection to ``dim``, with a bias. The
    projections bound the width of the hidden layer's input; each also gives an absent modality a place of its own.

    Source: folklore; the early-fusion baseline of every survey, such as Baltrusaitis, Ahuja, Morency (2019),
    "Multimodal Machine Learning: A Survey and Taxonomy", https://arxiv.org/abs/1705.09406.

    Reads: pooled vectors.

    Absent: the slot of an absent modality holds a learned vector of its own (zeros would be a value like any other). A
    sample with nothing at all gives what the learned vectors give.

    Cost: parameters and time grow as ``dim (sum of d_m) + M dim^2``.

    Use: first. It is the baseline to beat, and can learn any interaction, given data enough.

    Args:
        dims: width of each modality, for example ``{"text": 768, "audio": 128}``.
        dim: width of each projection, of the hidden layer and of the fused vector.
        dropout: between the layers of the MLP.

    Raises:
        ValueError: no modalities, a width that is not positive, or a dropout outside [0, 1).
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        require_dims("Concat", dims, dim)
        require_share("Concat", dropout=dropout)
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.absent = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(dim)) for name in dims})
        self.mix = nn.Sequential(nn.Linear(len(dims) * dim, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, dim))

    def forward(self, features: Mapping[str, Features]) -> Fused:
        pooled, present = read_pooled(features, self.project)  # present: (batch, modality)
        project: Any = self.project  # of linear layers, which a type checker cannot know
        which = either(present, next(self.parameters()).dtype)  # (batch, modality, 2)
        slots = [
            linear_or(self.absent[name], project[name], x, here)
            for (name, x), here in zip(pooled.items(), which.unbind(dim=1), strict=True)
        ]
        return Fused(Features.from_pooled(self.mix(torch.cat(slots, dim=1)), present.any(dim=1)))
