"""Fusion by cross-modal attention: each modality reads the tokens of the others."""

from collections.abc import Iterable, Mapping

from torch import nn

from mmfuse._checks import require_dims, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import require_heads
from mmfuse.layers.exchange import Exchange, MeanReadout, Reading, Tokens, reading_of_others
from mmfuse.layers.modalities import read_tokens
from mmfuse.layers.transformer import FeedForward


@recorded
class CrossAttention(nn.Module):
    r"""Each modality attends to the tokens of all the others, then a feed-forward network.

    .. math::
        Y_m = Z_m + \operatorname{Attn}\bigl(Q = Z_m,\ K, V = [Z_n]_{n \ne m,\ \text{present}}\bigr), \qquad
        Z_m \leftarrow Y_m + \operatorname{FFN}_m(\operatorname{LN}(Y_m))

    in every layer, for all modalities at once, beginning with :math:`Z_m = P_m X_m`. In the end
    :math:`h = W [z_1; \dots; z_M] + b`, where :math:`z_m` is the mean of the normalised tokens of m.
    :math:`\operatorname{Attn}` reads normalised tokens (pre-norm). Queries, keys and values of m are made by weights of
    m, once for all who read them, as in the co-attention of ViLBERT; so three modalities cost no more projections than
    two. ``Fused.features.tokens`` are the normalised tokens of all modalities, in the order of ``dims``.

    Source: Vaswani et al. (2017), "Attention Is All You Need", https://arxiv.org/abs/1706.03762, eq. 1; between two
    modalities: Lu et al. (2019), "ViLBERT: Pretraining Task-Agnostic Visiolinguistic Representations for
    Vision-and-Language Tasks", https://arxiv.org/abs/1908.02265.

    Reads: tokens. A modality with one token (:meth:`Features.from_pooled`) is read whatever the query says, if no other
    token is there to be read: a softmax over one key is 1.

    Absent: it gives no keys, and its :math:`z_m` is a learned vector. A modality whose others are all absent keeps its
    own tokens (the residual). A sample with nothing at all gets what the learned vectors give, present False.

    Cost: parameters ``12 M num_layers dim^2``; time ``T dim^2`` and ``T_m T_n dim`` for every ordered pair, T tokens in
    all. No attention map is kept.

    Use: where tokens matter one by one: words and regions, words and sounds. Modalities do not read themselves:
    encoders should have done that, or use CoAttention or SingleStream.

    Args:
        dims: width of each modality.
        dim: width of tokens and fused vector; a multiple of ``num_heads``.
        num_heads: attention heads.
        num_layers: layers.
        dropout: on both branches.
    """

    reads = "tokens"

    def __init__(
        self, dims: Mapping[str, int], dim: int, *, num_heads: int = 4, num_layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        require_dims("CrossAttention", dims, dim)
        require_positive("CrossAttention", num_heads=num_heads, num_layers=num_layers)
        require_heads("CrossAttention", dim, num_heads)
        require_share("CrossAttention", dropout=dropout)
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.layers = nn.ModuleList(_Layer(dims, dim, num_heads, dropout) for _ in range(num_layers))
        self.readout = MeanReadout(dims, dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        tokens, masks = read_tokens(features, self.project)
        tokens = {name: project(tokens[name]) for name, project in self.project.items()}
        reading = reading_of_others(masks, next(iter(tokens.values())).dtype)
        for layer in self.layers:
            tokens = layer(tokens, reading)
        return Fused(self.readout(tokens, masks))


class _Layer(nn.Module):
    """All modalities read each other, then each goes through a network of its own."""

    def __init__(self, names: Iterable[str], dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        names = list(names)
        # A single modality has nobody to read.
        self.exchange = Exchange(names, dim, num_heads, dropout=dropout) if len(names) > 1 else None
        self.norm = nn.ModuleDict({name: nn.LayerNorm(dim) for name in names})
        self.feed_forward = nn.ModuleDict({name: FeedForward(dim) for name in names})
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tokens, reading: Reading) -> Tokens:
        if self.exchange is not None:
            tokens = self.exchange(tokens, reading)
        return {name: x + self.dropout(self.feed_forward[name](self.norm[name](x))) for name, x in tokens.items()}
