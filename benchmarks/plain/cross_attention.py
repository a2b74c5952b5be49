"""Cross-attention between modalities, plainly: a loop over modalities, with attention written out as in ALBEF."""

import torch


def cross_attention(fusion, features):
    tokens = {name: project(features[name].tokens) for name, project in fusion.project.items()}
    for layer in fusion.layers:
        tokens = exchange(layer.exchange, tokens)
        tokens = {name: x + layer.feed_forward[name](layer.norm[name](x)) for name, x in tokens.items()}
    return read_out(fusion.readout, tokens)


def exchange(layer, tokens):
    """Every modality reads the tokens of all the others."""
    queries, keys, values = {}, {}, {}
    for name, x in tokens.items():
        parts = layer.query_key_value[name](layer.norm[name](x)).chunk(3, dim=-1)
        queries[name], keys[name], values[name] = (
            y.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for y in parts
        )
    result = {}
    for name, x in tokens.items():
        others = [other for other in tokens if other != name]
        k, v = (torch.cat([part[other] for other in others], dim=2) for part in (keys, values))
        q = queries[name]
        maps = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(dim=-1)
        result[name] = x + layer.out[name]((maps @ v).transpose(1, 2).reshape(x.shape))
    return result


def read_out(readout, tokens):
    means = [readout.norm[name](x).mean(dim=1) for name, x in tokens.items()]
    return readout.mix(torch.cat(means, dim=-1))
