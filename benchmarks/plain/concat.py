"""Concatenation as it is usually written: each projection, torch.cat, an MLP."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse.contracts import Features


def concat(fusion: nn.Module, features: Mapping[str, Features]) -> Tensor:
    projected = [fusion.project[name](x.pooled) for name, x in features.items()]
    return fusion.mix(torch.cat(projected, dim=1))
