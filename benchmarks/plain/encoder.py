"""Transformer layers as in TorchMultimodal's FLAVA and ALBEF: attention written out, all maps and states returned."""

import torch
import torch.nn.functional as F


def encoder(fusion, features):
    x, *other = (features[name].tokens for name in fusion.names)
    states, maps = [x], []
    for place, layer in enumerate(fusion.layers):
        if other:
            x = x + attend(fusion.read_self[place], fusion.norm_self[place](x), None, maps)
            x = x + attend(layer.attention, layer.norm_query(x), layer.norm_key(other[0]), maps)
        else:
            x = x + attend(layer.attention, layer.norm_attention(x), None, maps)
        x = x + layer.feed_forward(layer.norm_feed_forward(x))
        states.append(x)
    return fusion.norm(x)[:, 0]


def attend(attention, queries, keys, maps):
    heads, width = attention.num_heads, queries.shape[-1] // attention.num_heads
    if keys is None:
        layers, keys = [attention.query_key_value], queries
    else:
        layers = [attention.query, attention.key_value]
    weights, biases = (
        [part for layer in layers for part in getattr(layer, name).split(heads * width)] for name in ("weight", "bias")
    )
    projected = map(F.linear, (queries, keys, keys), weights, biases)
    q, k, v = (x.unflatten(-1, (heads, width)).permute(0, 2, 1, 3) for x in projected)
    scores = torch.matmul(q, k.transpose(-1, -2)) / width**0.5
    shares = torch.softmax(scores, dim=-1)
    maps.append(shares)
    read = torch.matmul(shares, v).permute(0, 2, 1, 3).contiguous()
    return attention.out(read.flatten(2))
