"""MISA as in the authors' code: one modality, one pair and one moment after the other, losses included."""

import itertools

import torch
import torch.nn.functional as F


def shared_private(fusion, features):
    projected = {name: fusion.project[name](x.pooled) for name, x in features.items()}
    shared = {name: fusion.shared(u) for name, u in projected.items()}
    private = {name: fusion.private[name](u) for name, u in projected.items()}
    rebuilt = {name: fusion.decode(shared[name] + private[name]) for name in projected}
    fused = _transform(fusion.transformer, torch.stack([*shared.values(), *private.values()]))
    _losses(projected, shared, private, rebuilt)
    return fusion.mix(torch.cat(list(fused), dim=1))


def _transform(block, x):
    """One pre-norm layer over (vector, batch, dim), as nn.TransformerEncoderLayer does it."""
    attention, normed = block.attention, block.norm_attention(x)
    read, _ = F.multi_head_attention_forward(
        normed, normed, normed, x.shape[2], attention.num_heads, attention.query_key_value.weight,
        attention.query_key_value.bias, None, None, False, 0.0,
        attention.out.weight, attention.out.bias, need_weights=False,
    )  # fmt: skip
    x = x + read
    return x + block.feed_forward(block.norm_feed_forward(x))


def _losses(projected, shared, private, rebuilt):
    pairs = list(itertools.combinations(projected, 2))
    similarity = sum(_discrepancy(shared[m], shared[n]) for m, n in pairs) / len(pairs)
    difference = sum(_overlap(shared[m], private[m]) for m in projected)
    difference = difference + sum(_overlap(private[m], private[n]) for m, n in pairs)
    reconstruction = sum(F.mse_loss(rebuilt[m], projected[m]) for m in projected) / len(projected)
    return similarity, difference, reconstruction


def _discrepancy(x, y):
    means = x.mean(dim=0), y.mean(dim=0)
    centred = x - means[0], y - means[1]
    total = ((means[0] - means[1]) ** 2).sum().sqrt()
    for k in range(2, 6):
        total = total + (((centred[0] ** k).mean(dim=0) - (centred[1] ** k).mean(dim=0)) ** 2).sum().sqrt()
    return total


def _overlap(x, y):
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    x = x / (x.norm(dim=1, keepdim=True) + 1e-6)
    y = y / (y.norm(dim=1, keepdim=True) + 1e-6)
    return ((x.t() @ y / len(x)) ** 2).sum()
