"""A weighted sum as it is usually written: one softmax, then one modality after the other."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse.contracts import Features


def weighted_average(fusion: nn.Module, features: Mapping[str, Features]) -> Tensor:
    weights = torch.stack([fusion.score[name] for name in features]).softmax(dim=0)
    projected = [fusion.project[name](x.pooled) for name, x in features.items()]
    return sum(weight * value for weight, value in zip(weights, projected, strict=True))
