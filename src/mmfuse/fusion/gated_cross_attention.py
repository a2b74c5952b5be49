"""Fusion by gated cross-attention: the tokens of a main modality read the others through gates that start closed."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_main, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import Attention, require_heads
from mmfuse.layers.join import JoinTokens
from mmfuse.layers.masking import masked_mean
from mmfuse.layers.modalities import read_tokens
from mmfuse.layers.transformer import FeedForward


@recorded
class GatedCrossAttention(nn.Module):
    r"""The tokens of a main modality read those of the others, through gates that are closed at the start.

    .. math::
        y = x + \tanh(\alpha) \operatorname{Attn}(\operatorname{LN}(x), X_n), \qquad
        x \leftarrow y + \tanh(\beta) \operatorname{FFN}(\operatorname{LN}(y))

    in every layer, with scalars :math:`\alpha = \beta = 0` at the start: the module is then the identity on the
    projected tokens of the main modality, and learns from there. :math:`X_n` are the projected tokens of all other
    modalities, marked with their modality and normalised once for all layers (Flamingo has one other modality, and a
    norm in each layer). h is the mean of the tokens :math:`x`, which are also ``Fused.features.tokens``. The gates are
    scalars, so :func:`mmfuse.training.parameter_groups` does not decay them: decay would hold them at 0.

    Source: Alayrac et al. (2022), "Flamingo: a Visual Language Model for Few-Shot Learning",
    https://arxiv.org/abs/2204.14198, section 2.2 and figure 4.

    Reads: tokens.

    Absent: an absent other gives no keys; where all are absent, only the feed-forward networks act. An absent main
    modality is stood in for by one learned token, which reads the others. A sample with nothing at all gives zeros,
    present False.

    Cost: parameters ``12 dim^2`` a layer and a projection for each modality; time ``T dim^2`` and
    ``T_main T_others dim`` a layer.

    Use: where a strong, perhaps frozen encoder of the main modality (text, as a rule) must not be disturbed at the
    start of training. Tokens of the main modality do not read each other: its encoder does that.

    Args:
        dims: width of each modality.
        dim: width of tokens and fused vector; a multiple of ``num_heads``.
        main: the modality that reads; the first of ``dims`` if None.
        num_heads: attention heads.
        num_layers: layers.
        dropout: on both branches.
    """

    reads = "tokens"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int,
        *,
        main: str | None = None,
        num_heads: int = 4,
        num_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_dims("GatedCrossAttention", dims, dim)
        require_positive("GatedCrossAttention", num_heads=num_heads, num_layers=num_layers)
        require_heads("GatedCrossAttention", dim, num_heads)
        require_share("GatedCrossAttention", dropout=dropout)
        self.main = require_main("GatedCrossAttention", main, dims)
        others = {name: width for name, width in dims.items() if name != self.main}
        self.project = nn.Linear(dims[self.main], dim)
        self.others = _Others(others, dim) if others else None  # a single modality has nobody to read
        self.layers = nn.ModuleList(_Layer(dim, num_heads, dropout, reads=bool(others)) for _ in range(num_layers))

    def forward(self, features: Mapping[str, Features]) -> Fused:
        tokens, masks = read_tokens(features, [self.main])
        x, mask = self.project(tokens[self.main]), masks[self.main]
        keys = None
        if self.others is not None:
            x, mask, keys = self.others(x, mask, features)
        for layer in self.layers:
            x = layer(x, keys)
        return Fused(Features(x, mask, masked_mean(x, mask)))


Keys = tuple[Float[Tensor, "batch key dim"], Bool[Tensor, "batch key"]]


class _Others(nn.Module):
    """The tokens that are read, and a token that stands in for an absent main modality."""

    def __init__(self, dims: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.join = JoinTokens(dims, dim)
        self.norm = nn.LayerNorm(dim)
        self.absent = nn.Parameter(0.02 * torch.randn(dim))

    def forward(self, main: Tensor, mask: Tensor, features: Mapping[str, Features]) -> tuple[Tensor, Tensor, Keys]:
        keys, readable = self.join(features)
        alone = readable.any(dim=1, keepdim=True) & ~mask.any(dim=1, keepdim=True)  # (batch, 1)
        stands_in = alone & (torch.arange(mask.shape[1], device=mask.device) == 0)  # its first token
        return torch.where(stands_in[..., None], self.absent, main), mask | stands_in, (self.norm(keys), readable)


class _Layer(nn.Module):
    """Gated attention to the others, then a gated feed-forward network."""

    def __init__(self, dim: int, num_heads: int, dropout: float, *, reads: bool) -> None:
        super().__init__()
        if reads:
            self.norm_attention = nn.LayerNorm(dim)
            self.attention = Attention(dim, num_heads)
            self.alpha = nn.Parameter(torch.zeros(()))
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim)
        self.beta = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, keys: Keys | None) -> Tensor:
        if keys is not None:
            read = self.attention(self.norm_attention(tokens), *keys)
            tokens = tokens + self.alpha.tanh() * self.dropout(read)
        return tokens + self.beta.tanh() * self.dropout(self.feed_forward(self.norm_feed_forward(tokens)))
