"""Attention pooling with one query, plainly: ``nn.MultiheadAttention`` with the parameters of ours."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_pool(pool, tokens: Tensor) -> Tensor:
    """Every token goes through the projections of keys and values, as nn.MultiheadAttention does it."""
    dim = tokens.shape[2]
    query = pool.query.reshape(1, 1, dim).expand(1, len(tokens), dim)  # (query, batch, dim)
    steps = tokens.transpose(0, 1)
    zero = tokens.new_zeros(dim)
    pooled, _ = F.multi_head_attention_forward(
        query, steps, steps, dim, len(pool.query), None, torch.cat([zero, zero, pool.value.bias]), None, None, False, 0,
        pool.out.weight, pool.out.bias, use_separate_proj_weight=True, q_proj_weight=torch.eye(dim, dtype=tokens.dtype),
        k_proj_weight=pool.key.weight, v_proj_weight=pool.value.weight,
    )  # fmt: skip
    return pooled[0]
