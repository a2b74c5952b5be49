"""Fusion by modulation: the other modalities scale and shift each coordinate of the main one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmfuse._checks import require_dims, require_main
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.linear import add_linear, either, linear_or
from mmfuse.layers.modalities import read_pooled


@recorded
class FiLM(nn.Module):
    r"""Feature-wise linear modulation: the other modalities scale and shift each coordinate of the main one.

    .. math::
        h = \gamma(c) * x + \beta(c), \qquad
        \gamma(c) = 1 + \sum_{m\ \text{present}} (G_m x_m + g_m), \qquad
        \beta(c) = \sum_{m\ \text{present}} (B_m x_m + b_m)

    Here :math:`x = P x_0 + p` is the projected main modality and :math:`c` the other modalities, the conditions. All of
    :math:`G_m, g_m, B_m, b_m` are 0 at initialisation, so that training starts from :math:`h = x`. (The paper predicts
    :math:`\Delta\gamma = \gamma - 1` for the same reason.) Several conditions add up; the paper has one.
    ``condition[name]`` holds :math:`[G_m; B_m]` as one layer, the rows of :math:`G_m` first.

    Source: Perez, Strub, de Vries, Dumoulin, Courville (2018), "FiLM: Visual Reasoning with a General Conditioning
    Layer", https://arxiv.org/abs/1709.07871, equations 1 and 2.

    Reads: pooled vectors.

    Absent: a condition that is absent neither scales nor shifts, so that without any the result is the projected main
    modality. A learned vector stands in for an absent main modality, and is modulated by what is there. A sample with
    nothing at all gives that vector.

    Cost: parameters and time grow as ``dim (d_main + 2 (sum of the others' d_m))``.

    Use: where one modality is the matter and the others say how to look at it: an image and a question, a scan and a
    patient's record. It multiplies, so it sees what two modalities mean only together.

    Args:
        dims: width of each modality.
        dim: width of the fused vector.
        main: the modality that is modulated; the first of ``dims`` if None.

    Raises:
        ValueError: no modalities, a width that is not positive, or a ``main`` that is not in ``dims``.
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int, *, main: str | None = None) -> None:
        super().__init__()
        require_dims("FiLM", dims, dim)
        self.main = require_main("FiLM", main, dims)
        self.project = nn.Linear(dims[self.main], dim)
        self.absent = nn.Parameter(0.02 * torch.randn(dim))
        self.condition = nn.ModuleDict(
            {name: nn.Linear(width, 2 * dim) for name, width in dims.items() if name != self.main}
        )
        for parameter in self.condition.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, [self.main, *self.condition.keys()])  # present: (batch, modality)
        which = either(present, self.absent.dtype)  # (batch, modality, 2)
        pooled = linear_or(self.absent, self.project, inputs[self.main], which[:, 0])
        if self.condition:
            condition: Any = self.condition  # of linear layers, which a type checker cannot know
            # The biases of the conditions that are there; one that is absent, being 0, adds 0 to them.
            change = which[:, 1:, 0] @ torch.stack([layer.bias for layer in condition.values()])
            for name, layer in condition.items():
                change = add_linear(change, layer, inputs[name])
            scale, shift = change.chunk(2, dim=1)
            pooled = torch.addcmul(pooled + shift, scale, pooled)
        return Fused(Features.from_pooled(pooled, present.any(dim=1)))
