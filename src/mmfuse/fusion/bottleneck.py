"""Fusion through a bottleneck: each modality reads itself, and a few tokens that all of them share."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import require_heads, score_bias
from mmfuse.layers.masking import masked_mean
from mmfuse.layers.modalities import read_tokens
from mmfuse.layers.transformer import SelfBlock


@recorded
class BottleneckFusion(nn.Module):
    r"""One transformer for each modality; information crosses only through a few bottleneck tokens.

    .. math::
        [Z_m^{(l+1)};\ F_m^{(l+1)}] = \operatorname{Block}_m^{(l)}\bigl([Z_m^{(l)};\ F^{(l)}]\bigr), \qquad
        F^{(l+1)} = \operatorname*{mean}_{m\ \text{present}}\, F_m^{(l+1)}, \qquad
        h = \operatorname*{mean}_{m\ \text{present}}\, \operatorname{LN}(Z_m^{(L)})_{\mathrm{CLS}}

    :math:`Z_m^{(0)} = [\mathrm{CLS}_m; P_m X_m]`, :math:`F^{(0)}` are B learned tokens, and blocks are pre-norm with
    weights of their own for each modality and layer. The first :math:`L_f` layers are without bottleneck:
    :math:`Z_m^{(l+1)} = \operatorname{Block}_m^{(l)}(Z_m^{(l)})`. In the first fusion layer each modality writes into
    the bottleneck, in the second it reads what the others wrote: with fewer than two, tokens know nothing of other
    modalities, and h is but their mean. The paper averages the logits that one linear classifier makes of each CLS: a
    linear head on h does the same. Stochastic depth is left out. ``Fused.features.tokens`` are the normalised tokens
    of all modalities in the order of ``dims``, before those of each its CLS.

    Source: Nagrani et al. (2021), "Attention Bottlenecks for Multimodal Fusion", https://arxiv.org/abs/2107.00135,
    section 3.

    Reads: tokens.

    Absent: it has no part in the means, and nothing reads its tokens. A sample with nothing at all gives zeros.

    Cost: parameters ``12 M num_layers dim^2`` and a projection for each modality; time
    ``num_layers sum_m (T_m dim^2 + T_m^2 dim)``: no product of the lengths of two modalities.

    Use: for long sequences, and where modalities should first be understood by themselves (video and sound). At about
    500 tokens in all the feed-forward networks dominate, and SingleStream costs the same with a third of the weights.

    Args:
        dims: width of each modality.
        dim: width of tokens and fused vector; a multiple of ``num_heads``.
        num_bottlenecks: B.
        num_heads: attention heads.
        num_layers: layers in all.
        fusion_layer: :math:`L_f`, the first layer with a bottleneck, from 0; below ``num_layers``.
        dropout: on both branches of each block.

    Raises:
        ValueError: if no layer is left for the bottleneck.
    """

    reads = "tokens"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int,
        *,
        num_bottlenecks: int = 4,
        num_heads: int = 4,
        num_layers: int = 2,
        fusion_layer: int = 0,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_dims("BottleneckFusion", dims, dim)
        require_positive(
            "BottleneckFusion", num_bottlenecks=num_bottlenecks, num_heads=num_heads, num_layers=num_layers
        )
        require_heads("BottleneckFusion", dim, num_heads)
        require_share("BottleneckFusion", dropout=dropout)
        if not 0 <= fusion_layer < num_layers:
            raise ValueError(
                f"BottleneckFusion got fusion_layer={fusion_layer}. Expected a layer from 0 to {num_layers - 1}, since "
                f"num_layers={num_layers}. Choose at most {max(num_layers - 2, 0)}: it takes two layers to cross."
            )
        self.fusion_layer = fusion_layer
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.cls = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(dim)) for name in dims})
        self.bottleneck = nn.Parameter(0.02 * torch.randn(num_bottlenecks, dim))
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: SelfBlock(dim, num_heads, dropout=dropout) for name in dims})
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        tokens, masks = read_tokens(features, self.project)
        present = torch.stack([mask.any(dim=1) for mask in masks.values()], dim=1)  # (batch, modality)
        streams = {name: self._with_cls(name, self.project[name](x)) for name, x in tokens.items()}
        streams = self._transform(streams, masks, present)
        normed = self.norm(torch.cat(list(streams.values()), dim=1))
        heads = [stream[:, 0] for stream in normed.split([stream.shape[1] for stream in streams.values()], dim=1)]
        real = [torch.cat([mask.any(dim=1, keepdim=True), mask], dim=1) for mask in masks.values()]
        return Fused(Features(normed, torch.cat(real, dim=1), masked_mean(torch.stack(heads, dim=1), present)))

    def _transform(
        self, streams: dict[str, Tensor], masks: Mapping[str, Tensor], present: Bool[Tensor, "batch modality"]
    ) -> dict[str, Tensor]:
        """CLS and tokens of each modality after all layers."""
        width, dtype = len(self.bottleneck), next(iter(streams.values())).dtype
        # CLS and bottleneck can always be read, so that every row has a key.
        alone = {name: score_bias(F.pad(mask, (1, 0), value=True), dtype) for name, mask in masks.items()}
        fused = {name: F.pad(bias, (0, width)) for name, bias in alone.items()}
        shared = self.bottleneck.to(dtype).expand(present.shape[0], -1, -1)
        layer: Any
        for place, layer in enumerate(self.layers):
            if place < self.fusion_layer:
                streams = {name: layer[name](x, alone[name]) for name, x in streams.items()}
                continue
            read = {name: layer[name](torch.cat([x, shared], dim=1), fused[name]) for name, x in streams.items()}
            parts = {name: x.split([x.shape[1] - width, width], dim=1) for name, x in read.items()}
            streams = {name: stream for name, (stream, _) in parts.items()}
            if place < len(self.layers) - 1:
                shared = _average([written for _, written in parts.values()], present)
        return streams

    def _with_cls(self, name: str, tokens: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch longer dim"]:
        return torch.cat([self.cls[name].to(tokens.dtype).expand(tokens.shape[0], 1, -1), tokens], dim=1)


def _average(
    parts: list[Float[Tensor, "batch bottleneck dim"]], present: Bool[Tensor, "batch modality"]
) -> Float[Tensor, "batch bottleneck dim"]:
    """The bottleneck tokens of the present modalities, averaged."""
    stacked = torch.stack(parts, dim=1)
    return masked_mean(stacked.flatten(2), present).unflatten(1, stacked.shape[2:])
