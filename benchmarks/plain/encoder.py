"""Transformer layers as in TorchMultimodal's FLAVA and ALBEF: attention written out, all maps and states returned."""

import torch
import torch.nn.functional as F


def encoder(fusion, features):
    x, *other = (features[name].tokens for name in fusion.names)
    states, maps = [x], []
    for place, layer in enumerate(fusion.layers):
        if other:
            normed = fusion.norm_self[place](x)
            x = x + attend(fusion.read_self[place], normed, normed, maps)
            x = x + attend(layer.attention, layer.norm_query(x), layer.norm_key(other[0]), maps)
        else:
            normed = layer.norm_attention(x)
            x = x + attend(layer.attention, normed, normed, maps)
        x = x + layer.feed_forward(layer.norm_feed_forward(x))
        states.append(x)
    return fusion.norm(x)[:, 0]


def attend(attention, queries, keys, maps):
    heads, width = attention.num_heads, queries.shape[-1] // attention.num_heads
    (k_weight, v_weight), (k_bias, v_bias) = (
        part.chunk(2) for part in (attention.key_value.weight, attention.key_value.bias)
    )
    projected = attention.query(queries), F.linear(keys, k_weight, k_bias), F.linear(keys, v_weight, v_bias)
    q, k, v = (x.unflatten(-1, (heads, width)).permute(0, 2, 1, 3) for x in projected)
    scores = torch.matmul(q, k.transpose(-1, -2)) / width**0.5
    shares = torch.softmax(scores, dim=-1)
    maps.append(shares)
    read = torch.matmul(shares, v).permute(0, 2, 1, 3).contiguous()
    return attention.out(read.flatten(2))
