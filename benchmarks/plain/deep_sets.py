"""A set of modalities as it is usually written: encode each, stack, pool, decode."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse.contracts import Features


def deep_sets(fusion: nn.Module, features: Mapping[str, Features]) -> Tensor:
    elements = torch.stack([fusion.phi[name](x.pooled) for name, x in features.items()], dim=1)
    if fusion.pool == "max":
        return fusion.rho(elements.max(dim=1).values)
    return fusion.rho(elements.mean(dim=1) if fusion.pool == "mean" else elements.sum(dim=1))
