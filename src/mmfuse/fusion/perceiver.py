"""Fusion by latents: a few learned vectors read the tokens of all modalities, again and again."""

from collections.abc import Mapping

import torch
from torch import nn

from mmfuse._checks import require_dims, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import require_heads
from mmfuse.layers.join import JoinTokens
from mmfuse.layers.pooling import AttentionPool
from mmfuse.layers.transformer import CrossBlock, SelfBlock


@recorded
class PerceiverFusion(nn.Module):
    r"""Learned latents read all tokens by cross-attention and then each other, several rounds with the same weights.

    .. math::
        K = [P_1 X_1 + e_1; \dots; P_M X_M + e_M], \qquad
        Z^{(r)} = \operatorname{Self}\bigl(\operatorname{Cross}(Z^{(r-1)}, K)\bigr), \qquad
        h = \operatorname{Pool}\bigl(\operatorname{LN}(Z^{(R)})\bigr)

    :math:`Z^{(0)}` are L learned latents, :math:`e_m` is the code of modality m (the bias of :math:`P_m`), Cross is one
    block of cross-attention, Self ``num_layers`` blocks of self-attention; each block has its feed-forward network. All
    weights are shared by the R rounds (the Perceiver's first cross-attention has weights of its own), and so the tokens
    are projected to keys and values once. Pool is attention with one learned query, the decoder of Perceiver IO (the
    Perceiver takes the mean). Tokens have no order here but what their encoder gave them.
    ``Fused.features.tokens`` are the normalised latents.

    Source: Jaegle et al. (2021), "Perceiver: General Perception with Iterative Attention",
    https://arxiv.org/abs/2103.03206; Jaegle et al. (2021), "Perceiver IO: A General Architecture for Structured Inputs
    and Outputs", https://arxiv.org/abs/2107.14795.

    Reads: tokens.

    Absent: its tokens are no keys. A sample with nothing at all reads nothing: what the learned latents give, present
    False.

    Cost: parameters ``12 (1 + num_layers) dim^2`` and a projection for each modality; time linear in the T tokens of
    all modalities: ``T dim^2`` once, ``L T dim`` in each round, and ``L dim^2 + L^2 dim`` in each of its blocks.

    Use: where sequences are long or many, and where the number of tokens should not matter afterwards. Few latents
    squeeze: for fine alignment of short sequences, CrossAttention keeps every token.

    Args:
        dims: width of each modality.
        dim: width of latents and fused vector; a multiple of ``num_heads``.
        num_latents: L.
        num_rounds: R, how often the tokens are read.
        num_layers: self-attention blocks in each round.
        num_heads: attention heads.
        dropout: on both branches of each block.
    """

    reads = "tokens"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int,
        *,
        num_latents: int = 32,
        num_rounds: int = 2,
        num_layers: int = 1,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_dims("PerceiverFusion", dims, dim)
        require_positive(
            "PerceiverFusion",
            num_latents=num_latents,
            num_rounds=num_rounds,
            num_layers=num_layers,
            num_heads=num_heads,
        )
        require_heads("PerceiverFusion", dim, num_heads)
        require_share("PerceiverFusion", dropout=dropout)
        self.num_rounds = num_rounds
        self.join = JoinTokens(dims, dim)
        self.latents = nn.Parameter(0.02 * torch.randn(num_latents, dim))
        self.cross = CrossBlock(dim, num_heads, dropout=dropout)
        self.blocks = nn.ModuleList(SelfBlock(dim, num_heads, dropout=dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.pool = AttentionPool(dim, num_heads)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        tokens, mask = self.join(features)
        projected = self.cross.project(tokens)
        latents = self.latents.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        for _ in range(self.num_rounds):
            latents = self.cross.read(latents, projected, mask)
            for block in self.blocks:
                latents = block(latents)
        latents = self.norm(latents)
        present = mask.any(dim=1, keepdim=True).expand(latents.shape[:2])
        return Fused(Features(latents, present, self.pool(latents)))
