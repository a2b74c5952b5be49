"""The gated multimodal unit as the paper writes it, and the same with a softmax."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse.contracts import Features


def gated_fusion(fusion: nn.Module, features: Mapping[str, Features]) -> Tensor:
    hidden = [torch.tanh(fusion.value[name](x.pooled)) for name, x in features.items()]
    gates = torch.sigmoid(fusion.gate(torch.cat([x.pooled for x in features.values()], dim=1)))
    if len(hidden) == 2:
        return gates * hidden[0] + (1 - gates) * hidden[1]
    return sum(z * h for z, h in zip(gates.chunk(len(hidden), dim=1), hidden, strict=True))


def softmax_gated_fusion(fusion: nn.Module, features: Mapping[str, Features]) -> Tensor:
    hidden = [torch.tanh(fusion.value[name](x.pooled)) for name, x in features.items()]
    scores = fusion.gate(torch.cat([x.pooled for x in features.values()], dim=1))
    gates = torch.stack(scores.chunk(len(hidden), dim=1), dim=1).softmax(dim=1)
    return (gates * torch.stack(hidden, dim=1)).sum(dim=1)
