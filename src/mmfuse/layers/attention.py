"""Multi-head attention that never reads padding and gives zeros where there is nothing to read."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from mmfuse._checks import require_count
from mmfuse.layers.masking import real_only


class Attention(nn.Module):
    """Scaled dot-product attention (Vaswani et al., 2017, eq. 1) of a query sequence over a key sequence.

    A sample without a real key gets zeros, with finite gradients. Keys under a False mask must be finite: zero them.
    On a CPU, dropout of the attention weights makes torch build them all (twice the time, many times the memory):
    leave it at 0 there and put dropout behind the attention.

    Args:
        dim: width of the queries and of the result.
        num_heads: heads; must divide ``dim``.
        key_dim: width of the keys and values; ``dim`` if None.
        dropout: dropout of the attention weights, in training.
    """

    def __init__(self, dim: int, num_heads: int, *, key_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        require_heads("Attention", dim, num_heads)
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(key_dim or dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        queries: Float[Tensor, "batch query dim"],
        keys: Float[Tensor, "batch time key_dim"],
        mask: Bool[Tensor, "batch time"] | Float[Tensor, "batch 1 1 time"] | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """What each query reads; without a mask every key is real. For one of floats see :func:`score_bias`."""
        return self.read(queries, self.project(keys), mask)

    def project(self, keys: Float[Tensor, "batch time key_dim"]) -> Float[Tensor, "2 batch head time width"]:
        """Keys and values of each head. Who reads the same tokens several times projects them once."""
        return self.key_value(keys).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def read(
        self,
        queries: Float[Tensor, "batch query dim"],
        projected: Float[Tensor, "2 batch head time width"],
        mask: Bool[Tensor, "batch time"] | Float[Tensor, "batch 1 1 time"] | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """What each query reads of projected keys and values."""
        q = self.query(queries).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (batch, head, query, dim/head)
        k, v = projected.unbind(0)
        return _read(self.out, q, k, v, mask, self.dropout if self.training else 0.0)


class SelfAttention(nn.Module):
    """Scaled dot-product attention of a sequence over itself: queries, keys and values are one matrix product.

    Absence and padding as in :class:`Attention`: what stands under a False mask must be finite.

    Args:
        dim: width of the tokens and of the result.
        num_heads: heads; must divide ``dim``.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        require_heads("SelfAttention", dim, num_heads)
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        tokens: Float[Tensor, "batch time dim"],
        mask: Bool[Tensor, "batch time"] | Float[Tensor, "batch 1 1 time"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """What each token reads; without a mask every token is real. For one of floats see :func:`score_bias`."""
        q, k, v = self.query_key_value(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return _read(self.out, q, k, v, mask)


def _read(
    out: nn.Module,
    q: Float[Tensor, "batch head query width"],
    k: Float[Tensor, "batch head time width"],
    v: Float[Tensor, "batch head time width"],
    mask: Bool[Tensor, "batch time"] | Float[Tensor, "batch 1 1 time"] | None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch query dim"]:
    """What each query reads of the real keys; zeros where there is none."""
    if mask is None or mask.is_floating_point():  # every row has a key
        return out(scaled_dot_product(q, k, v, mask, dropout=dropout).transpose(1, 2).flatten(2))
    readable = mask.any(dim=1)[:, None, None]  # (batch, 1, 1)
    # True = take part. A row without keys attends to everything and is zeroed after: every backend agrees on that.
    take_part = (mask[:, None] | ~readable)[:, None]  # (batch, 1, 1, time)
    heads = scaled_dot_product(q, k, v, take_part, dropout=dropout)
    return real_only(out(heads.transpose(1, 2).flatten(2)), readable)


def score_bias(mask: Bool[Tensor, "batch time"], dtype: torch.dtype) -> Float[Tensor, "batch 1 1 time"]:
    """What to add to the scores so that only real keys are read: made once, for all layers that have the same keys.

    Every row must have a real key: nothing puts zeros where a row has none.
    """
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -torch.inf)[:, None, None]


def scaled_dot_product(
    q: Float[Tensor, "batch head query width"],
    k: Float[Tensor, "batch head time width"],
    v: Float[Tensor, "batch head time width"],
    mask: Shaped[Tensor, "batch 1 1 time"] | None = None,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "batch head query width"]:
    """``F.scaled_dot_product_attention``, for narrow heads on a CPU too.

    Its kernel there is built for vectors of 16: heads of 5 take 1.7 times as long as these heads filled up with zeros,
    which change no score. Where one side is much shorter, there is little to compute and much to fill.
    """
    width = q.shape[-1]
    # A compiled graph does not look at lengths, or it would have to be made again for others.
    if width >= 16 or not q.is_cpu or (not torch.compiler.is_compiling() and _one_sided(q.shape[-2], k.shape[-2])):
        return F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout)
    q, k, v = (F.pad(x, (0, 16 - width)) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, scale=width**-0.5)[..., :width]


def _one_sided(queries: int, keys: int) -> bool:
    return max(queries, keys) > 4 * min(queries, keys)


def require_heads(owner: str, dim: int, num_heads: int) -> None:
    """Raise ValueError unless ``dim`` can be split into heads."""
    require_count(owner, num_heads=num_heads)
    if dim % num_heads:
        raise ValueError(
            f"{owner} cannot split dim={dim} into num_heads={num_heads} equal heads. Expected a multiple. "
            f"Choose dim={-(-dim // num_heads) * num_heads} or another num_heads."
        )
