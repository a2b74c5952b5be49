"""Attention over modalities as it is usually written: one modality after the other, as TorchMultimodal does."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse.contracts import Features


def attention_fusion(fusion: nn.Module, features: Mapping[str, Features]) -> Tensor:
    scores, values = [], []
    for name, x in features.items():
        key, value = fusion.key_value[name](x.pooled).split(fusion.widths, dim=1)
        scores.append(fusion.query(torch.tanh(key)) / fusion.widths[0])
        values.append(value)
    weights = torch.cat(scores, dim=1).softmax(dim=1)
    weighted = [weights[:, i].unsqueeze(1) * value for i, value in enumerate(values)]
    return torch.sum(torch.stack(weighted), dim=0)
