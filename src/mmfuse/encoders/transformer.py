"""Sequences of features through a transformer: (batch, time, width) -> Features."""

from torch import nn

from mmfuse._checks import require_count
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.feature import FeatureTransform
from mmfuse.encoders._inputs import require_width, token_mask
from mmfuse.layers.attention import require_heads
from mmfuse.layers.masking import masked_mean
from mmfuse.layers.sequence import SequenceTransformer


@recorded
class TransformerEncoder(nn.Module):
    r"""Norm and projection of each step, positions, and pre-norm transformer layers (Xiong et al., 2020).

    .. math:: Y = \operatorname{Transformer}(W \operatorname{LN}(X) + b + p), \qquad
              \bar{y} = \frac{1}{T} \sum_{t\ \text{real}} y_t

    https://arxiv.org/abs/2002.04745. Every step is a token; the pooled vector is the mean of the real ones. Attention
    takes time and memory by the square of the number of steps: cut at ``max_steps``, or use a GRU over the same files
    (``SeriesEncoder``, whose transform reads them too), which takes no more than in proportion.

    Args:
        dim: width of the tokens; a multiple of ``num_heads``.
        width: width of the given features.
        num_layers: transformer layers.
        num_heads: heads of attention.
        dropout: on both branches of each layer, in training.
        key: which array of a file that holds several.
        max_steps: longer sequences are cut off when they are read.
        checkpointing: recompute the activations of each layer in the backward pass; less memory, more time.

    Raises:
        ValueError: if a number does not fit; in ``forward`` if the input is not ``(batch, time, width)``.
    """

    pretrained = False

    def __init__(  # noqa: PLR0913  numbers of the network, and what its transform needs
        self,
        dim: int,
        *,
        width: int,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
        key: str | None = None,
        max_steps: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_count("TransformerEncoder", dim=dim, width=width, num_layers=num_layers)
        require_heads("TransformerEncoder", dim, num_heads)
        self.dim, self.width = dim, width
        self._transform = FeatureTransform(width, sequence=True, key=key, max_steps=max_steps)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, dim)
        self.transformer = SequenceTransformer(
            dim, num_layers, num_heads=num_heads, dropout=dropout, checkpointing=checkpointing
        )

    def forward(self, input: Input) -> Features:
        require_width("TransformerEncoder", input, self.width, vectors=False)
        mask = token_mask(input)
        steps = self.project(self.norm(input.zeroed().values.to(self.norm.weight.dtype)))
        tokens = self.transformer(steps, mask)
        return Features(tokens, mask, masked_mean(tokens, mask))

    def transform(self, train: bool = False) -> FeatureTransform:  # noqa: ARG002 (no random changes to features)
        """From a cell or file of a table to what ``forward`` takes."""
        return self._transform
