"""Gated cross-attention, plainly: as in the public ports of Flamingo, with attention written out."""

import torch
from plain._attention import attend


def gated_cross_attention(fusion, features):
    x = fusion.project(features[fusion.main].tokens)
    others = fusion.others
    keys = others.norm(torch.cat([project(features[name].tokens) for name, project in others.join.project.items()], 1))
    for layer in fusion.layers:
        x = x + layer.alpha.tanh() * attend(layer.attention, layer.norm_attention(x), keys)
        x = x + layer.beta.tanh() * layer.feed_forward(layer.norm_feed_forward(x))
    return x.mean(dim=1)
