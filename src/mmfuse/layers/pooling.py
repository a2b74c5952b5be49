"""Attention pooling: one learned query reads a sequence and gives one vector."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse.layers.attention import require_heads
from mmfuse.layers.masking import masked_softmax, real_only


class AttentionPool(nn.Module):
    r"""Multi-head attention (Vaswani et al., 2017, eq. 1) with one learned query per head.

    .. math::
        a_h = \operatorname{softmax}_{t\ \text{real}}\Bigl(\frac{q_h^\top W^K_h x_t}{\sqrt{d_h}}\Bigr), \qquad
        h = W^O \Bigl[W^V_h \sum_t a_{ht} x_t + b^V_h\Bigr]_h + b^O

    One query lets both projections change places with the sums over tokens: :math:`q_h^\top W^K_h` is one vector per
    head, and :math:`W^V_h` meets one mean per head instead of every token. So no token meets a ``dim`` by ``dim``
    matrix, and time is that of reading the tokens twice. The keys have no bias: it would drop out of the softmax.

    A sample without a real token gets zeros. Tokens under a False mask must be finite: zero them.

    Args:
        dim: width of the tokens and of the result.
        num_heads: heads; must divide ``dim``.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        require_heads("AttentionPool", dim, num_heads)
        self.query = nn.Parameter(torch.randn(num_heads, dim // num_heads))
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, tokens: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        """One vector per sample; without a mask every token is real."""
        return self.gather(tokens, self.shares(tokens, mask), mask)

    def shares(
        self, tokens: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch head time"]:
        """How much each head reads of each token: 0 where not real, 1 in all."""
        num_heads, width = self.query.shape
        query = self.query[:, None] * width**-0.5  # (head, 1, dim/head)
        folded = torch.bmm(query, self.key.weight.unflatten(0, (num_heads, width))).squeeze(1)  # (head, dim)
        scores = torch.matmul(tokens, folded.T).transpose(1, 2)
        if mask is None:
            mask = torch.ones_like(scores[:, 0], dtype=torch.bool)
        return masked_softmax(scores, mask[:, None].expand_as(scores))

    def gather(
        self,
        tokens: Float[Tensor, "batch time dim"],
        shares: Float[Tensor, "batch head time"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """The vector that the given shares make."""
        num_heads, width = self.query.shape
        means = torch.bmm(shares.to(tokens.dtype), tokens).transpose(0, 1)  # (head, batch, dim)
        values = torch.baddbmm(
            self.value.bias.view(num_heads, 1, width), means, self.value.weight.view(num_heads, width, -1).mT
        )
        pooled = self.out(values.transpose(0, 1).flatten(1))
        return pooled if mask is None else real_only(pooled, mask.any(dim=1, keepdim=True))
