"""Attention and transformer blocks as most research code has them: scores by matmul, softmax, matmul."""

from torch import Tensor


def attend(attention, queries: Tensor, keys: Tensor) -> Tensor:
    heads, dim = attention.num_heads, queries.shape[-1]
    q = _split(attention.query(queries), heads)
    k, v = (_split(x, heads) for x in attention.key_value(keys).chunk(2, dim=-1))
    return attention.out(_weigh(q, k, v, dim // heads))


def attend_self(attention, tokens: Tensor) -> Tensor:
    heads, dim = attention.num_heads, tokens.shape[-1]
    q, k, v = (_split(x, heads) for x in attention.query_key_value(tokens).chunk(3, dim=-1))
    return attention.out(_weigh(q, k, v, dim // heads))


def _weigh(q: Tensor, k: Tensor, v: Tensor, width: int) -> Tensor:
    maps = (q @ k.transpose(-2, -1) * width**-0.5).softmax(dim=-1)
    return (maps @ v).transpose(1, 2).flatten(2)


def self_block(block, tokens: Tensor) -> Tensor:
    tokens = tokens + attend_self(block.attention, block.norm_attention(tokens))
    return tokens + block.feed_forward(block.norm_feed_forward(tokens))


def cross_block(block, tokens: Tensor, keys: Tensor) -> Tensor:
    tokens = tokens + attend(block.attention, block.norm_query(tokens), block.norm_key(keys))
    return tokens + block.feed_forward(block.norm_feed_forward(tokens))


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
