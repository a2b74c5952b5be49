"""The multimodal adaptation gate as the paper writes it: every token beside the vector that shifts it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse.contracts import Features


def adaptation_gate(fusion: nn.Module, features: Mapping[str, Features]) -> Tensor:
    z = fusion.project(features[fusion.main].tokens)
    shift = fusion.bias
    for name, gate in fusion.gate.items():
        x = features[name].pooled[:, None].expand(-1, z.shape[1], -1)
        weight = torch.cat([fusion.look[name].weight, gate.weight], dim=1)
        opened = torch.relu(nn.functional.linear(torch.cat([z, x], dim=2), weight, gate.bias))
        shift = shift + opened * fusion.value[name](x)
    length, longest = z.norm(dim=2, keepdim=True), shift.norm(dim=2, keepdim=True)
    alpha = torch.clamp(fusion.beta * length / (longest + 1e-12), max=1.0)
    return fusion.dropout(fusion.norm(z + alpha * shift)).mean(dim=1)
