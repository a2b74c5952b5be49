"""Fusion by queries: learned queries read each other, and every other layer the tokens of all modalities."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import Attention, SelfAttention, require_heads
from mmfuse.layers.join import JoinTokens
from mmfuse.layers.transformer import FeedForward


@recorded
class QFormer(nn.Module):
    r"""Learned queries attend to each other in every layer, and to the tokens of all modalities in every other one.

    .. math::
        K = \operatorname{LN}([P_1 X_1 + e_1; \dots; P_M X_M + e_M]), \qquad
        \begin{aligned}
        A &= Q^{(l)} + \operatorname{Attn}(\operatorname{LN}(Q^{(l)})) \\
        B &= A + \operatorname{Attn}(\operatorname{LN}(A), K) \quad (l\ \text{even};\ \text{else}\ B = A) \\
        Q^{(l+1)} &= B + \operatorname{FFN}(\operatorname{LN}(B))
        \end{aligned}

    :math:`Q^{(0)}` are learned queries, layers count from 0, :math:`e_m` is the code of modality m (the bias of
    :math:`P_m`), and h is the mean of the normalised queries. BLIP-2 reads one modality, the image, and is post-norm
    because it starts from BERT; here the tokens of all modalities are keys, and the layers are pre-norm. Its text
    branch, which shares the self-attention, is another model. ``Fused.features.tokens`` are the normalised queries.

    Source: Li et al. (2023), "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large
    Language Models", https://arxiv.org/abs/2301.12597, section 3.1.

    Reads: tokens.

    Absent: its tokens are no keys. A sample with nothing at all reads nothing: what the learned queries give, present
    False.

    Cost: parameters ``12 dim^2`` a layer, ``4 dim^2`` more where it reads tokens, and a projection for each modality;
    time linear in the T tokens of all modalities: ``T dim^2`` for every other layer, and ``num_queries dim^2`` in each.

    Use: to hand a fixed number of tokens to a decoder or another fusion, above all behind frozen encoders. Unlike
    PerceiverFusion each layer has weights of its own.

    Args:
        dims: width of each modality.
        dim: width of queries and fused vector; a multiple of ``num_heads``.
        num_queries: learned queries.
        num_heads: attention heads.
        num_layers: layers; those of even number read the tokens.
        dropout: on every branch.
    """

    reads = "tokens"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int,
        *,
        num_queries: int = 32,
        num_heads: int = 4,
        num_layers: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_dims("QFormer", dims, dim)
        require_positive("QFormer", num_queries=num_queries, num_heads=num_heads, num_layers=num_layers)
        require_heads("QFormer", dim, num_heads)
        require_share("QFormer", dropout=dropout)
        self.join = JoinTokens(dims, dim)
        self.norm_tokens = nn.LayerNorm(dim)
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, dim))
        self.layers = nn.ModuleList(
            _Layer(dim, num_heads, dropout, reads=place % 2 == 0) for place in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        tokens, mask = self.join(features)
        tokens = self.norm_tokens(tokens)
        queries = self.queries.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, tokens, mask)
        queries = self.norm(queries)
        present = mask.any(dim=1, keepdim=True).expand(queries.shape[:2])
        return Fused(Features(queries, present, queries.mean(dim=1)))


class _Layer(nn.Module):
    """Self-attention, in some layers cross-attention, and a feed-forward network, each with its residual."""

    def __init__(self, dim: int, num_heads: int, dropout: float, *, reads: bool) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(dim)
        self.attend_self = SelfAttention(dim, num_heads)
        if reads:
            self.norm_cross = nn.LayerNorm(dim)
            self.attend_cross = Attention(dim, num_heads)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim)
        self.dropout = nn.Dropout(dropout)
        self.reads = reads

    def forward(
        self,
        queries: Float[Tensor, "batch query dim"],
        tokens: Float[Tensor, "batch time dim"],
        mask: Bool[Tensor, "batch time"],
    ) -> Float[Tensor, "batch query dim"]:
        queries = queries + self.dropout(self.attend_self(self.norm_self(queries)))
        if self.reads:
            queries = queries + self.dropout(self.attend_cross(self.norm_cross(queries), tokens, mask))
        return queries + self.dropout(self.feed_forward(self.norm_feed_forward(queries)))
