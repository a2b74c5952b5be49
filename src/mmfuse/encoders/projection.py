"""Features that are given, projected: (batch, width) or (batch, time, width) -> Features."""

import torch
from torch import nn

from mmfuse._checks import require_count, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.feature import FeatureTransform
from mmfuse.encoders._inputs import require_width, token_mask
from mmfuse.layers.masking import masked_mean


@recorded
class ProjectionEncoder(nn.Module):
    r"""Norm, then two linear layers with GELU between them, on each vector by itself.

    .. math:: y = W_2\,\mathrm{GELU}(W_1 \operatorname{LN}(x) + b_1) + b_2

    The norm, because features of other models come in any scale; two layers rather than one, because they connect the
    features of a frozen model better (Liu et al., 2024, https://arxiv.org/abs/2310.03744, section 3). A vector is its
    own only token; a sequence keeps its steps as tokens, and its pooled vector is the mean of the real ones.

    The norm is over the numbers of one vector. Features whose numbers have units of their own (pitch in hertz beside
    loudness in decibels) want statistics of each number instead: use ``SeriesEncoder``, or standardise them first.

    Args:
        dim: width of the tokens.
        width: width of the given features.
        sequence: read sequences from a table, not single vectors. ``forward`` takes both.
        dropout: between the two layers, in training.
        key: which array of a file that holds several.
        max_steps: longer sequences are cut off when they are read.

    Raises:
        ValueError: in ``forward`` if the input has another shape.
    """

    pretrained = False

    def __init__(
        self,
        dim: int,
        *,
        width: int,
        sequence: bool = False,
        dropout: float = 0.1,
        key: str | None = None,
        max_steps: int | None = None,
    ) -> None:
        super().__init__()
        require_count("ProjectionEncoder", dim=dim, width=width)
        require_share("ProjectionEncoder", dropout=dropout)
        self.dim, self.width = dim, width
        self._transform = FeatureTransform(width, sequence=sequence, key=key, max_steps=max_steps)
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, dim)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(dim, dim)

    def forward(self, input: Input) -> Features:
        require_width("ProjectionEncoder", input, self.width)
        values = input.zeroed().values.to(self.norm.weight.dtype)
        tokens = self.second(self.dropout(nn.functional.gelu(self.first(self.norm(values)))))
        if values.dim() == 2:
            return Features.from_pooled(tokens, input.present)
        mask = token_mask(input)
        tokens = torch.where(mask[..., None], tokens, 0.0)
        return Features(tokens, mask, masked_mean(tokens, mask))

    def transform(self, train: bool = False) -> FeatureTransform:  # noqa: ARG002 (no random changes to features)
        """From a cell or file of a table to what ``forward`` takes."""
        return self._transform
