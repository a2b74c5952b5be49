"""Fusion by co-attention: streams that exchange keys and values in every layer, and read themselves."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from mmfuse._checks import require_dims, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import require_heads
from mmfuse.layers.exchange import Exchange, MeanReadout, Reading, Tokens, reading_of_others
from mmfuse.layers.modalities import read_tokens
from mmfuse.layers.transformer import SelfBlock

Masks = Mapping[str, Tensor]


@recorded
class CoAttention(nn.Module):
    r"""One stream a modality; in every layer the streams exchange keys and values, then each attends to itself.

    .. math::
        \begin{aligned}
        A_m &= Z_m + \operatorname{Attn}\bigl(Q_m, [K_n]_{n \ne m,\ \text{present}}, [V_n]_{n \ne m}\bigr) \\
        B_m &= A_m + \operatorname{SelfAttn}_m(\operatorname{LN}(A_m)) \\
        Z_m &\leftarrow B_m + \operatorname{FFN}_m(\operatorname{LN}(B_m))
        \end{aligned}

    with :math:`Q_m, K_m, V_m = \operatorname{LN}(Z_m) [W^Q_m, W^K_m, W^V_m]`, beginning with :math:`Z_m = P_m X_m`. All
    streams read what the others were before the layer. In the end :math:`h = W [z_1; \dots; z_M] + b`, where
    :math:`z_m` is the mean of the normalised tokens of m. The order within a layer is that of LXMERT; ViLBERT has a
    second feed-forward network behind the exchange. Where we deviate: the layers are pre-norm, both directions have
    weights of their own (LXMERT shares them), more than two modalities read the tokens of all others at once, and
    :math:`z_m` is a mean and not a token of class. ``Fused.features.tokens`` are the normalised tokens of all
    modalities, in the order of ``dims``.

    Source: Lu et al. (2019), "ViLBERT: Pretraining Task-Agnostic Visiolinguistic Representations for
    Vision-and-Language Tasks", https://arxiv.org/abs/1908.02265; Tan and Bansal (2019), "LXMERT: Learning
    Cross-Modality Encoder Representations from Transformers", https://arxiv.org/abs/1908.07490, section 2.2.

    Reads: tokens.

    Absent: it gives no keys, and its :math:`z_m` is a learned vector. A stream whose others are all absent reads only
    itself. A sample with nothing at all gets what the learned vectors give, present False.

    Cost: parameters ``16 M num_layers dim^2``; time ``T dim^2`` and, T tokens in all, ``T^2 dim``. No attention map is
    kept.

    Use: where modalities are long, and unlike enough to deserve weights of their own. With one set of weights for all,
    SingleStream costs a third of the parameters; CrossAttention is enough if the encoders mix the tokens of each.

    Args:
        dims: width of each modality.
        dim: width of tokens and fused vector; a multiple of ``num_heads``.
        num_heads: attention heads.
        num_layers: layers.
        dropout: on all branches.
    """

    reads = "tokens"

    def __init__(
        self, dims: Mapping[str, int], dim: int, *, num_heads: int = 4, num_layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        require_dims("CoAttention", dims, dim)
        require_positive("CoAttention", num_heads=num_heads, num_layers=num_layers)
        require_heads("CoAttention", dim, num_heads)
        require_share("CoAttention", dropout=dropout)
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.layers = nn.ModuleList(_Layer(dims, dim, num_heads, dropout) for _ in range(num_layers))
        self.readout = MeanReadout(dims, dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        tokens, masks = read_tokens(features, self.project)
        tokens = {name: project(tokens[name]) for name, project in self.project.items()}
        reading = reading_of_others(masks, next(iter(tokens.values())).dtype)
        for layer in self.layers:
            tokens = layer(tokens, masks, reading)
        return Fused(self.readout(tokens, masks))


class _Layer(nn.Module):
    """All streams read each other, then each reads itself."""

    def __init__(self, names: Iterable[str], dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        names = list(names)
        # A single modality has nobody to read.
        self.exchange = Exchange(names, dim, num_heads, dropout=dropout) if len(names) > 1 else None
        self.stream = nn.ModuleDict({name: SelfBlock(dim, num_heads, dropout=dropout) for name in names})

    def forward(self, tokens: Tokens, masks: Masks, reading: Reading) -> Tokens:
        if self.exchange is not None:
            tokens = self.exchange(tokens, reading)
        return {name: self.stream[name](x, masks[name]) for name, x in tokens.items()}
