"""Attention and transformer blocks as most research code has them: scores by matmul, softmax, matmul."""

from torch import Tensor


def attend(attention, queries: Tensor, keys: Tensor) -> Tensor:
    heads, dim = attention.num_heads, queries.shape[-1]
    q = _split(attention.query(queries), heads)
    k, v = (_split(x, heads) for x in attention.key_value(keys).chunk(2, dim=-1))
    maps = (q @ k.transpose(-2, -1) * (dim // heads) ** -0.5).softmax(dim=-1)
    return attention.out((maps @ v).transpose(1, 2).reshape(queries.shape))


def self_block(block, tokens: Tensor) -> Tensor:
    normed = block.norm_attention(tokens)
    tokens = tokens + attend(block.attention, normed, normed)
    return tokens + block.feed_forward(block.norm_feed_forward(tokens))


def cross_block(block, tokens: Tensor, keys: Tensor) -> Tensor:
    tokens = tokens + attend(block.attention, block.norm_query(tokens), block.norm_key(keys))
    return tokens + block.feed_forward(block.norm_feed_forward(tokens))


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
