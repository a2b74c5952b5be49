"""The multimodal transformer, plainly: pair by pair, with the attention of the authors' code (fairseq's, of 2019).

Softmax in float32, a mask made in every layer, head-averaged weights that nobody reads, keys and values normalised one
by one, and all steps of the last layer although one is read.
"""

import torch
import torch.nn.functional as F

from mmfuse.layers.positions import sinusoids


def mult(fusion, features):
    names = list(fusion.project)
    low = {name: fusion.project[name](features[name].tokens) for name in names}
    low = {name: (x + sinusoids(x.shape[1], x)).transpose(0, 1) for name, x in low.items()}  # (time, batch, dim)
    masks = {name: features[name].mask for name in names}
    streams, last = cross_modal(fusion.streams, low, masks), []
    memory = [
        of_one(layer, len(names), key_value)
        for layer, key_value in zip(fusion.memory.layers, fusion.memory.key_value, strict=True)
    ]
    for place, name in enumerate(names):
        z = torch.cat([streams[name, other] for other in names if other != name], dim=-1)
        for layer in memory:
            z = block(layer[place], z, z, masks[name], fusion.memory.layers[0].num_heads)
        last.append(norm(z)[-1])
    return fusion.out(torch.cat(last, dim=-1))


def cross_modal(streams, low, masks):
    pairs = [(target, source) for target in low for source in low if target != source]
    layers = [of_one(layer, len(pairs)) for layer in streams.layers]
    key_value = linears(streams.key_value, len(pairs))
    result = {}
    for place, (target, source) in enumerate(pairs):
        weights, biases = (part.chunk(len(layers), dim=-1) for part in key_value[place])
        z = low[target]
        for layer, weight, bias in zip(layers, weights, biases, strict=True):
            parts = {**layer[place], "key_value": (weight, bias)}
            z = block(parts, z, low[source], masks[source], streams.layers[0].num_heads)
        result[target, source] = z
    return result


def block(layer, x, keys, mask, heads):
    """One pre-norm layer: read the keys, then the feed-forward network."""
    x = x + attention(layer, norm(x), norm(keys), norm(keys), mask, heads)
    hidden = F.relu(apply(layer["up"], norm(x)))
    return x + apply(layer["down"], hidden)


def attention(layer, query, key, value, mask, heads):
    time, batch, dim = query.shape
    (k_weight, v_weight), (k_bias, v_bias) = (part.chunk(2, dim=-1) for part in layer["key_value"])
    q = apply(layer["query"], query) * (dim // heads) ** -0.5
    k, v = apply((k_weight, k_bias), key), apply((v_weight, v_bias), value)
    q, k, v = (x.contiguous().view(-1, batch * heads, dim // heads).transpose(0, 1) for x in (q, k, v))
    weights = torch.bmm(q, k.transpose(1, 2))
    hidden = torch.zeros_like(mask, dtype=weights.dtype).masked_fill(~mask, -torch.inf)
    weights = (weights.view(batch, heads, time, -1) + hidden[:, None, None]).view(batch * heads, time, -1)
    wide = weights.float() if weights.itemsize < 4 else weights
    weights = F.softmax(wide, dim=-1).type_as(weights)
    read = torch.bmm(weights, v).transpose(0, 1).contiguous().view(time, batch, dim)
    weights.view(batch, heads, time, -1).sum(dim=1) / heads  # returned there, and read by nobody
    return apply(layer["out"], read)


def of_one(layer, count, key_value=None):
    """The parameters of each of the layers that stand side by side."""
    kinds = {"query": layer.query, "out": layer.out, "up": layer.up, "down": layer.down}
    kinds |= {"key_value": key_value} if key_value is not None else {}
    parts = {name: linears(stacked, count) for name, stacked in kinds.items()}
    return [{name: part[place] for name, part in parts.items()} for place in range(count)]


def linears(stacked, count):
    return list(zip(stacked.weight.unbind(), stacked.bias.chunk(count), strict=True))


def apply(linear, x):
    weight, bias = linear
    return F.linear(x, weight.T, bias)


def norm(x):
    return F.layer_norm(x, x.shape[-1:])
