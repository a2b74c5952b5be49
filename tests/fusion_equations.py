"""Parts of equations, written out for one vector at a time: what the tests of the fusion methods share."""

import torch
from torch import Tensor, nn


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """One vector through a linear layer."""
    return layer.weight @ x + layer.bias


def gelu(x: Tensor) -> Tensor:
    """The exact form."""
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def attend(attention: nn.Module, query: Tensor, keys: list[Tensor]) -> Tensor:
    """What one query reads of some keys, head by head; zeros if there is no key."""
    if not keys:
        return torch.zeros_like(query)
    q, width = linear(attention.query, query), len(query)
    both = [linear(attention.key_value, key) for key in keys]
    size = width // attention.num_heads
    heads = []
    for head in range(attention.num_heads):
        part = slice(size * head, size * (head + 1))
        scores = [q[part] @ kv[:width][part] / size**0.5 for kv in both]
        total = sum(torch.exp(score) for score in scores)
        heads.append(sum(torch.exp(score) / total * kv[width:][part] for score, kv in zip(scores, both, strict=True)))
    return linear(attention.out, torch.cat(heads))
