"""Feature-wise linear modulation as the paper writes it, one condition after the other."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse.contracts import Features


def film(fusion: nn.Module, features: Mapping[str, Features]) -> Tensor:
    x = fusion.project(features[fusion.main].pooled)
    gamma, beta = torch.ones_like(x), torch.zeros_like(x)
    for name, layer in fusion.condition.items():
        scale, shift = layer(features[name].pooled).chunk(2, dim=1)
        gamma, beta = gamma + scale, beta + shift
    return gamma * x + beta
