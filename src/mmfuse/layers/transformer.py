"""Pre-norm transformer blocks (Xiong et al., 2020): tokens that read themselves, and tokens that read others."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse.layers.attention import Attention, SelfAttention


class FeedForward(nn.Sequential):
    """Two linear layers with GELU between them, the inner one ``expansion`` times as wide."""

    def __init__(self, dim: int, *, expansion: int = 4, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Linear(dim, expansion * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(expansion * dim, dim)
        )


class SelfBlock(nn.Module):
    r"""Tokens read each other, then a feed-forward network (Vaswani et al., 2017; pre-norm, Xiong et al., 2020).

    .. math:: Y = X + \operatorname{Attn}(\operatorname{LN}(X), \operatorname{LN}(X)), \qquad
              Z = Y + \operatorname{FFN}(\operatorname{LN}(Y))

    What is not real must come in finite, and comes out finite and unspecified. ``dropout`` is on both branches. Where
    every row has a real token, the mask may be a :func:`~mmfuse.layers.attention.score_bias`, made once for all blocks.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Float[Tensor, "batch time dim"],
        mask: Bool[Tensor, "batch time"] | Float[Tensor, "batch 1 1 time"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        tokens = tokens + self.dropout(self.attention(self.norm_attention(tokens), mask))
        return tokens + self.dropout(self.feed_forward(self.norm_feed_forward(tokens)))


class CrossBlock(nn.Module):
    r"""Tokens read other tokens, then a feed-forward network.

    .. math:: Y = X + \operatorname{Attn}(\operatorname{LN}_q(X), \operatorname{LN}_k(K)), \qquad
              Z = Y + \operatorname{FFN}(\operatorname{LN}(Y))

    A sample without a real key keeps X in the first line. Keys must be finite. ``dropout`` is on both branches.
    """

    def __init__(self, dim: int, num_heads: int, *, key_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(dim)
        self.norm_key = nn.LayerNorm(key_dim or dim)
        self.attention = Attention(dim, num_heads, key_dim=key_dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Float[Tensor, "batch query dim"],
        keys: Float[Tensor, "batch time key_dim"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        return self.read(tokens, self.project(keys), mask)

    def project(self, keys: Float[Tensor, "batch time key_dim"]) -> Float[Tensor, "2 batch head time width"]:
        """Keys and values of each head. Who applies the block to the same keys several times projects them once."""
        return self.attention.project(self.norm_key(keys))

    def read(
        self,
        tokens: Float[Tensor, "batch query dim"],
        projected: Float[Tensor, "2 batch head time width"],
        mask: Bool[Tensor, "batch time"] | Float[Tensor, "batch 1 1 time"] | None = None,
    ) -> Float[Tensor, "batch query dim"]:
        """The block, with keys and values projected before."""
        read = self.attention.read(self.norm_query(tokens), projected, mask)
        tokens = tokens + self.dropout(read)
        return tokens + self.dropout(self.feed_forward(self.norm_feed_forward(tokens)))
