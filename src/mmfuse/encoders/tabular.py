"""Numbers and categories of a table through an MLP: (batch, width) -> Features."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn

from mmfuse._checks import require_count, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.tabular import TabularTransform, split_row
from mmfuse.encoders._categories import CategoryEmbedding
from mmfuse.encoders._inputs import require_row

CATEGORY_DIM = 16  # width of the vector of a category


@recorded
class TabularEncoder(nn.Module):
    r"""Standardised numbers, flags of what is observed, and embedded categories, through an MLP.

    .. math::
        h_0 = [\hat{x}, o, e], \qquad h_l = \operatorname{Dropout}(\operatorname{ReLU}(W_l h_{l-1} + b_l)), \qquad
        y = W h_L + b

    The baseline of Gorishniy et al., 2021, https://arxiv.org/abs/2106.11959, with :math:`o` beside: 1 for each cell
    that is not empty. A missing number is 0 and a missing category the zero vector, so that the column of its flag is
    what is learned of its absence. An unseen category is the mean of the known ones. The vector is its own only token.

    Args:
        dim: width of the result.
        numbers: mean and standard deviation of each column of numbers; from ``tabular_statistics``.
        categories: the known categories of each column; from ``tabular_statistics``.
        hidden_dim: width of the hidden layers.
        num_layers: hidden layers.
        dropout: after each hidden layer, in training.

    Raises:
        ValueError: if there are no columns; in ``forward`` if the input has another width.
    """

    pretrained = False

    def __init__(
        self,
        dim: int,
        *,
        numbers: Mapping[str, Sequence[float]] | None = None,
        categories: Mapping[str, Sequence[str]] | None = None,
        hidden_dim: int = 256,
        num_layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_count("TabularEncoder", dim=dim, hidden_dim=hidden_dim, num_layers=num_layers)
        require_share("TabularEncoder", dropout=dropout)
        self._transform = TabularTransform(numbers=numbers, categories=categories)
        self.dim, self.width = dim, len(self._transform.blank())
        known = self._transform.categories
        self.embed = CategoryEmbedding(known, CATEGORY_DIM) if known else None
        widths = [2 * len(self._transform.numbers) + (1 + CATEGORY_DIM) * len(known), *[hidden_dim] * num_layers]
        blocks = [
            nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout))
            for before, after in pairwise(widths)
        ]
        self.hidden = nn.Sequential(*blocks)
        self.out = nn.Linear(hidden_dim, dim)

    def forward(self, input: Input) -> Features:
        require_row("TabularEncoder", input, self.width)
        values = input.zeroed().values
        numbers, observed, codes = split_row(values, len(self._transform.numbers))
        parts = [numbers, observed.to(numbers.dtype)]
        if self.embed is not None:
            parts.append(self.embed(codes).flatten(1))
        row = torch.cat([part.to(self.out.weight.dtype) for part in parts], dim=1)
        return Features.from_pooled(self.out(self.hidden(row)), input.present)

    def transform(self, train: bool = False) -> TabularTransform:  # noqa: ARG002 (no random changes to cells)
        """From the cells of a row to what ``forward`` takes."""
        return self._transform
