"""EmbraceNet as its authors' code has it: torch.multinomial, then a mask for each modality."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse.contracts import Features


def embracenet(fusion: nn.Module, features: Mapping[str, Features]) -> Tensor:
    docked = torch.stack([torch.relu(fusion.dock[name](x.pooled)) for name, x in features.items()], dim=1)
    batch, count, dim = docked.shape
    if not fusion.training:
        return (fusion.p[:, None] / fusion.p.sum() * docked).sum(dim=1)
    drawn = torch.multinomial(fusion.p.expand(batch, count), num_samples=dim, replacement=True)  # (batch, dim)
    toggles = nn.functional.one_hot(drawn, num_classes=count).transpose(1, 2).to(docked.dtype)
    return (docked * toggles).sum(dim=1)
