"""Multi-head attention that never reads padding and gives zeros where there is nothing to read."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


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
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """What each query reads; without a mask every key is real."""
        return self.read(queries, self.project(keys), mask)

    def project(self, keys: Float[Tensor, "batch time key_dim"]) -> Float[Tensor, "2 batch head time width"]:
        """Keys and values of each head. Who reads the same tokens several times projects them once."""
        return self.key_value(keys).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def read(
        self,
        queries: Float[Tensor, "batch query dim"],
        projected: Float[Tensor, "2 batch head time width"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """What each query reads of projected keys and values."""
        q = self.query(queries).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (batch, head, query, dim/head)
        k, v = projected.unbind(0)
        dropout = self.dropout if self.training else 0.0
        if mask is None:
            return self.out(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2))
        unreadable = ~mask.any(dim=1)[:, None, None]  # (batch, 1, 1)
        # True = take part. A row without keys attends to everything and is zeroed after: every backend agrees on that.
        take_part = (mask[:, None] | unreadable)[:, None]  # (batch, 1, 1, time)
        heads = F.scaled_dot_product_attention(q, k, v, take_part, dropout_p=dropout)
        return self.out(heads.transpose(1, 2).flatten(2)).masked_fill(unreadable, 0.0)


def require_heads(owner: str, dim: int, num_heads: int) -> None:
    """Raise ValueError unless ``dim`` can be split into heads."""
    if dim % num_heads:
        raise ValueError(
            f"{owner} cannot split dim={dim} into num_heads={num_heads} equal heads. Expected a multiple. "
            f"Choose dim={-(-dim // num_heads) * num_heads} or another num_heads."
        )
