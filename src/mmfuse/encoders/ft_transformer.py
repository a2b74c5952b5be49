"""Numbers and categories of a table as tokens through a transformer: (batch, width) -> Features."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmfuse._checks import require_count, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.tabular import TabularTransform, split_row
from mmfuse.encoders._categories import CategoryEmbedding
from mmfuse.encoders._inputs import require_row
from mmfuse.layers.attention import Attention, require_heads
from mmfuse.layers.checkpointing import run


@recorded
class FTTransformerEncoder(nn.Module):
    r"""Feature tokenizer and transformer: each cell is a token, and [CLS] reads them.

    .. math::
        T_j^{\mathrm{num}} = b_j + x_j W_j, \qquad T_j^{\mathrm{cat}} = b_j + e_j^\top W_j, \qquad
        T = [\mathrm{CLS}, T_1, \ldots, T_k], \qquad
        X = T + \operatorname{Attn}(\operatorname{LN}(T)), \qquad Y = X + \operatorname{FFN}(\operatorname{LN}(X))

    Gorishniy et al., 2021, https://arxiv.org/abs/2106.11959. As in the paper the first layer has no norm before its
    attention, and :math:`\operatorname{FFN}(z) = W_2\,(\operatorname{ReLU}(g) \odot a)` with :math:`[a, g] = W_1 z`
    (ReGLU), 4/3 as wide. One difference: dropout is on both branches and not on the weights of attention, which a CPU
    would then have to build. The tokens are [CLS] and the columns; the pooled vector is [CLS] after a last norm.

    It wants a smaller learning rate than an MLP: ``fit(..., learning_rate=3e-4)`` (the paper has 1e-4).

    A missing cell is a token that is not real: nothing reads it. So a row says as much as is known of it, and no
    placeholder has to be learned. Where the absence of a cell says something by itself (a test that only the sick are
    given), :class:`TabularEncoder`, which sees flags, can use it. An unseen category is the mean of the known ones.

    Args:
        dim: width of the tokens; a multiple of ``num_heads``.
        numbers: mean and standard deviation of each column of numbers; from ``tabular_statistics``.
        categories: the known categories of each column; from ``tabular_statistics``.
        num_layers: transformer layers.
        num_heads: heads of attention.
        dropout: on both branches and in the feed-forward network, in training.
        checkpointing: recompute the activations of each layer in the backward pass; less memory, more time.

    Raises:
        ValueError: if a number does not fit, or there are no columns; in ``forward`` if the input has another width.
    """

    pretrained = False

    def __init__(
        self,
        dim: int,
        *,
        numbers: Mapping[str, Sequence[float]] | None = None,
        categories: Mapping[str, Sequence[str]] | None = None,
        num_layers: int = 3,
        num_heads: int = 8,
        dropout: float = 0.1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_count("FTTransformerEncoder", dim=dim, num_layers=num_layers)
        require_share("FTTransformerEncoder", dropout=dropout)
        require_heads("FTTransformerEncoder", dim, num_heads)
        self._transform = TabularTransform(numbers=numbers, categories=categories)
        self.dim, self.width = dim, len(self._transform.blank())
        self.tokenize = FeatureTokenizer(len(self._transform.numbers), self._transform.categories, dim)
        self.layers = nn.ModuleList(_Layer(dim, num_heads, dropout=dropout, first=i == 0) for i in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.checkpointing = checkpointing

    def forward(self, input: Input) -> Features:
        require_row("FTTransformerEncoder", input, self.width)
        numbers, observed, codes = split_row(input.zeroed().values, len(self._transform.numbers))
        mask = torch.cat([input.present[:, None], observed], dim=1)  # [CLS] is real in every row that is there
        tokens = self.tokenize(numbers, codes)
        for layer in self.layers:
            tokens = run(layer, tokens, mask, checkpointing=self.checkpointing)
        tokens = torch.where(mask[..., None], self.norm(tokens), 0.0)
        return Features(tokens, mask, tokens[:, 0])

    def transform(self, train: bool = False) -> TabularTransform:  # noqa: ARG002 (no random changes to cells)
        """From the cells of a row to what ``forward`` takes."""
        return self._transform


class FeatureTokenizer(nn.Module):
    """[CLS], then a token for each column: the bias of the column, and its number times a vector or its category's."""

    def __init__(self, numbers: int, categories: Mapping[str, Sequence[str]], dim: int) -> None:
        super().__init__()
        bound = dim**-0.5
        self.cls = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(numbers + len(categories), dim).uniform_(-bound, bound))
        self.weight = nn.Parameter(torch.empty(numbers, dim).uniform_(-bound, bound)) if numbers else None
        self.embed = CategoryEmbedding(categories, dim) if categories else None

    def forward(
        self, numbers: Float[Tensor, "batch number"], codes: Int[Tensor, "batch category"]
    ) -> Float[Tensor, "batch column dim"]:
        parts = [self.cls.expand(numbers.shape[0], 1, -1)]
        bias = self.bias.tensor_split((numbers.shape[1],))
        if self.weight is not None:
            parts.append(torch.addcmul(bias[0], numbers.to(self.weight.dtype)[..., None], self.weight))
        if self.embed is not None:
            parts.append(self.embed(codes) + bias[1])
        return torch.cat(parts, dim=1)


class _Layer(nn.Module):
    """Pre-norm attention and ReGLU; the first layer of all attends without norm."""

    def __init__(self, dim: int, num_heads: int, *, dropout: float, first: bool) -> None:
        super().__init__()
        hidden = dim * 4 // 3
        self.norm_attention = nn.Identity() if first else nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 2 * hidden)
        self.narrow = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Float[Tensor, "batch column dim"], mask: Bool[Tensor, "batch column"]
    ) -> Float[Tensor, "batch column dim"]:
        normed = self.norm_attention(tokens)
        tokens = tokens + self.dropout(self.attention(normed, normed, mask))
        values, gates = self.widen(self.norm_feed_forward(tokens)).chunk(2, dim=-1)
        return tokens + self.dropout(self.narrow(self.dropout(values * gates.relu())))
