"""Parts of equations, written out for one vector at a time: what the tests of the fusion methods share."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse.contracts import Features, Fused


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
    both = [linear(attention.key_value, key) for key in keys]
    width = len(query)
    key, value = [kv[:width] for kv in both], [kv[width:] for kv in both]
    return linear(attention.out, read_heads(linear(attention.query, query), key, value, attention.num_heads))


def attend_self(attention: nn.Module, tokens: list[Tensor]) -> list[Tensor]:
    """What each token reads of all, head by head."""
    every = [linear(attention.query_key_value, x).chunk(3) for x in tokens]
    queries, keys, values = ([parts[i] for parts in every] for i in range(3))
    return [linear(attention.out, read_heads(query, keys, values, attention.num_heads)) for query in queries]


def read_heads(query: Tensor, keys: list[Tensor], values: list[Tensor], num_heads: int) -> Tensor:
    """Softmax over keys and mean of values, in each head's part of the vectors."""
    size = len(query) // num_heads
    heads = []
    for head in range(num_heads):
        part = slice(size * head, size * (head + 1))
        scores = [query[part] @ key[part] / size**0.5 for key in keys]
        total = sum(torch.exp(score) for score in scores)
        heads.append(sum(torch.exp(s) / total * value[part] for s, value in zip(scores, values, strict=True)))
    return torch.cat(heads)


def feed_forward(layer: nn.Module, x: Tensor) -> Tensor:
    """One vector through ``layers.transformer.FeedForward``."""
    return linear(layer[3], gelu(linear(layer[0], x)))


def exchange(layer: nn.Module, tokens: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    """``layers.exchange.Exchange`` on the real tokens of one sample."""
    queries, keys, values = {}, {}, {}
    for name, vectors in tokens.items():
        every = [linear(layer.query_key_value[name], layer.norm[name](x)).chunk(3) for x in vectors]
        queries[name], keys[name], values[name] = ([parts[i] for parts in every] for i in range(3))
    result = {}
    for name, vectors in tokens.items():
        others = [other for other in tokens if other != name]
        key, value = ([x for other in others for x in part[other]] for part in (keys, values))
        result[name] = list(vectors)
        if key:
            read = [read_heads(query, key, value, layer.num_heads) for query in queries[name]]
            result[name] = [x + linear(layer.out[name], y) for x, y in zip(vectors, read, strict=True)]
    return result


def mean_readout(readout: nn.Module, tokens: dict[str, list[Tensor]]) -> Tensor:
    """``layers.exchange.MeanReadout`` on the real tokens of one sample."""
    slots = [
        sum(readout.norm[name](x) for x in vectors) / len(vectors) if vectors else readout.absent[name]
        for name, vectors in tokens.items()
    ]
    return linear(readout.mix, torch.cat(slots))


def self_block(block: nn.Module, tokens: list[Tensor]) -> list[Tensor]:
    """``layers.transformer.SelfBlock`` on the real tokens of one sample."""
    read = attend_self(block.attention, [block.norm_attention(x) for x in tokens])
    tokens = [x + y for x, y in zip(tokens, read, strict=True)]
    return [x + feed_forward(block.feed_forward, block.norm_feed_forward(x)) for x in tokens]


def cross_block(block: nn.Module, tokens: list[Tensor], keys: list[Tensor]) -> list[Tensor]:
    """``layers.transformer.CrossBlock`` on one sample; without a key the first residual alone."""
    keys = [block.norm_key(x) for x in keys]
    tokens = [x + attend(block.attention, block.norm_query(x), keys) for x in tokens]
    return [x + feed_forward(block.feed_forward, block.norm_feed_forward(x)) for x in tokens]


def attention_pool(pool: nn.Module, tokens: list[Tensor]) -> Tensor:
    """``layers.pooling.AttentionPool`` on the real tokens of one sample, each projected to a key and a value."""
    if not tokens:
        return torch.zeros(pool.out.out_features, dtype=pool.query.dtype)
    keys, values = [pool.key.weight @ x for x in tokens], [linear(pool.value, x) for x in tokens]
    return linear(pool.out, read_heads(pool.query.flatten(), keys, values, len(pool.query)))


def real_tokens(features: Mapping[str, Features], i: int) -> dict[str, list[Tensor]]:
    """The real tokens of one sample."""
    return {name: list(x.tokens[i, x.mask[i]]) for name, x in features.items()}


def assert_equals(fused: Fused, i: int, pooled: Tensor, tokens: list[Tensor]) -> None:
    """Raise unless one sample of a result has this vector, and these tokens where it has any."""
    torch.testing.assert_close(fused.features.pooled[i], pooled, rtol=0, atol=1e-12)
    found = fused.features.tokens[i, fused.features.mask[i]]
    if fused.features.present[i]:
        torch.testing.assert_close(found, torch.stack(tokens), rtol=0, atol=1e-12)
    else:
        assert not len(found)
