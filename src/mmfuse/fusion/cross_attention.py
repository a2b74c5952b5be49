"""Fusion by cross-modal attention: each modality reads the tokens of the others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import Attention
from mmfuse.layers.masking import masked_mean


@recorded
class CrossAttention(nn.Module):
    r"""Each modality attends to the tokens of all the others (Vaswani et al., 2017; Lu et al., 2019).

    With :math:`Z_m^{(0)} = P_m X_m`, in every layer and for all modalities at once,

    .. math::
        Y_m = Z_m + \operatorname{Attn}_m\bigl(Q = \operatorname{LN}(Z_m),\
              K, V = \operatorname{LN}([Z_n]_{n \ne m,\ \text{present}})\bigr), \qquad
        Z_m \leftarrow Y_m + \operatorname{FFN}_m(\operatorname{LN}(Y_m))

    and in the end :math:`h = W [z_1; \dots; z_M] + b`, where :math:`z_m` is the mean of the normalised tokens of m. An
    absent modality gives no keys, and its :math:`z_m` is a learned vector; a modality whose others are all absent keeps
    its own tokens (the residual). ``Fused.features.tokens`` are the tokens of all modalities, one after the other in
    the order of ``dims``. Parameters grow with ``M num_layers dim^2``, time with the product of the token counts. Use
    it where tokens matter one by one: words and regions, words and sounds. A modality with one token
    (:meth:`Features.from_pooled`) is read whatever the query says, since a softmax over one key is 1.

    Args:
        dims: width of each modality.
        dim: width of tokens and fused vector; a multiple of ``num_heads``.
        num_heads: attention heads.
        num_layers: layers.
        dropout: of attention weights and of both residual branches.
    """

    def __init__(
        self, dims: Mapping[str, int], dim: int, *, num_heads: int = 4, num_layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        require_dims("CrossAttention", dims, dim)
        require_positive("CrossAttention", num_heads=num_heads, num_layers=num_layers)
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: _Layer(dim, num_heads, dropout, reads=len(dims) > 1) for name in dims})
            for _ in range(num_layers)
        )
        self.norm = nn.ModuleDict({name: nn.LayerNorm(dim) for name in dims})
        self.absent = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(dim)) for name in dims})
        self.out = nn.Linear(len(dims) * dim, dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        masks = {name: features[name].mask for name in self.project}
        tokens = {name: project(features[name].zeroed().tokens) for name, project in self.project.items()}
        for layer in self.layers:
            tokens = _exchange(layer, tokens, masks)
        tokens = {name: self.norm[name](x) for name, x in tokens.items()}
        slots = [
            torch.where(masks[name].any(dim=1, keepdim=True), masked_mean(x, masks[name]), self.absent[name])
            for name, x in tokens.items()
        ]
        every, mask = torch.cat(list(tokens.values()), dim=1), torch.cat(list(masks.values()), dim=1)
        return Fused(Features(every, mask, self.out(torch.cat(slots, dim=1))))


class _Layer(nn.Module):
    """What was read from the others, then a feed-forward network, each with its residual."""

    def __init__(self, dim: int, num_heads: int, dropout: float, *, reads: bool) -> None:
        super().__init__()
        if reads:  # a single modality has nobody to read
            self.norm_keys = nn.LayerNorm(dim)
            self.attention = Attention(dim, num_heads, dropout=dropout)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, read: Tensor | None) -> Tensor:
        if read is not None:
            tokens = tokens + self.dropout(read)
        return tokens + self.dropout(self.feed_forward(self.norm(tokens)))


def _exchange(layer: Any, tokens: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """One layer for all modalities; each reads what the others were before it."""
    if len(tokens) == 1:
        return {name: layer[name](x, None) for name, x in tokens.items()}
    normed = {name: layer[name].norm_keys(x) for name, x in tokens.items()}
    result = {}
    for name, x in tokens.items():
        others = [other for other in tokens if other != name]
        keys = torch.cat([normed[other] for other in others], dim=1)  # (batch, time of all others, dim)
        mask = torch.cat([masks[other] for other in others], dim=1)
        result[name] = layer[name](x, layer[name].attention(normed[name], keys, mask))
    return result
