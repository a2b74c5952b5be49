"""A dense mixture of experts as it is usually written: one expert after the other, then their weighted sum.

The balance of the experts belongs to the method, so it is computed here too.
"""

import torch
import torch.nn.functional as F


def experts(fusion, features):
    x = torch.cat([fusion.project[name](x.pooled) for name, x in features.items()], dim=1)
    present = torch.ones(len(x), len(features), dtype=x.dtype, device=x.device)
    gates = fusion.gate(torch.cat([x, present], dim=1)).softmax(dim=1)
    answers, dim = [], fusion.outer.shape[1]
    for k in range(len(fusion.outer)):
        rows = slice(k * dim, (k + 1) * dim)
        hidden = F.gelu(F.linear(x, fusion.inner.weight[rows], fusion.inner.bias[rows]))
        answers.append(hidden @ fusion.outer[k] + fusion.outer_bias[k])
    importance = gates.sum(dim=0)
    importance.var(correction=0) / importance.mean() ** 2
    return (torch.stack(answers, dim=1) * gates[:, :, None]).sum(dim=1)
