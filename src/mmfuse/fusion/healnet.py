"""Fusion by one latent array that each present modality updates in turn."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmfuse._checks import require_dims, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import require_heads, score_bias
from mmfuse.layers.modalities import read_tokens
from mmfuse.layers.transformer import CrossBlock, SelfBlock


@recorded
class HealNet(nn.Module):
    r"""Each present modality in turn updates one latent array, several rounds with the same weights.

    .. math::
        S \leftarrow \operatorname{Self}\bigl(\operatorname{Cross}_m(S, P_m X_m)\bigr)
        \quad \text{for each present m in turn, R rounds}, \qquad
        h = \frac{1}{L} \sum_{l=1}^{L} \operatorname{LN}(S)_l

    S starts as L learned latents. :math:`\operatorname{Cross}_m` is a block of cross-attention with the weights of
    modality m, Self one of self-attention with weights that all modalities share; both have a feed-forward network, and
    both are the same in every round. So the tokens are projected to keys and values once. The order is that of the
    sorted names: it is part of the method. HEALNet reads raw inputs with Fourier positions and self-normalising
    networks; here encoders stand before, and networks are pre-norm with GELU. ``Fused.features.tokens`` are the
    normalised latents.

    Source: Hemker et al. (2024), "HEALNet: Multimodal Fusion for Heterogeneous Biomedical Data",
    https://arxiv.org/abs/2311.09115.

    Reads: tokens.

    Absent: its updates are skipped, exactly: the result is that of a model which never had the modality. A sample with
    nothing at all keeps the learned latents, present False.

    Cost: parameters ``12 (M + 1) dim^2`` and a projection for each modality; time linear in the tokens:
    ``T dim^2`` once, and in each round ``T L dim`` and ``M L dim^2``. The updates wait for each other: M R steps deep.

    Use: where modalities are very unlike, of unlike length, and often missing. Where they are few and short,
    CrossAttention or SingleStream see all of them at once.

    Args:
        dims: width of each modality.
        dim: width of latents and fused vector; a multiple of ``num_heads``.
        num_latents: L.
        num_rounds: R, how often each modality is read.
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
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_dims("HealNet", dims, dim)
        require_positive("HealNet", num_latents=num_latents, num_rounds=num_rounds, num_heads=num_heads)
        require_heads("HealNet", dim, num_heads)
        require_share("HealNet", dropout=dropout)
        self.num_rounds = num_rounds
        names = sorted(dims)
        self.project = nn.ModuleDict({name: nn.Linear(dims[name], dim) for name in names})
        self.latents = nn.Parameter(torch.randn(num_latents, dim))
        self.cross = nn.ModuleDict({name: CrossBlock(dim, num_heads, dropout=dropout) for name in names})
        self.block = SelfBlock(dim, num_heads, dropout=dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        tokens, masks = read_tokens(features, self.project)
        present = {name: mask.any(dim=1)[:, None, None] for name, mask in masks.items()}  # (batch, 1, 1)
        blocks: dict[str, Any] = dict(self.cross.items())
        projected = {name: block.project(self.project[name](tokens[name])) for name, block in blocks.items()}
        first = next(iter(projected.values()))
        # A row whose modality is absent reads all of its zeros: what comes of it is not taken.
        bias = {name: score_bias(mask | ~present[name][:, 0], first.dtype) for name, mask in masks.items()}
        latents = self.latents.to(first.dtype).expand(first.shape[1], -1, -1)
        for _ in range(self.num_rounds):
            for name, block in blocks.items():
                updated = self.block(block.read(latents, projected[name], bias[name]))
                latents = torch.where(present[name], updated, latents)
        latents = self.norm(latents)
        anything = torch.stack(list(present.values())).any(dim=0)[:, 0].expand(latents.shape[:2])
        return Fused(Features(latents, anything, latents.mean(dim=1)))
