"""Codes of categories -> vectors, for the encoders of tables."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmfuse.data.transforms.tabular import FIRST, UNSEEN
from mmfuse.layers.masking import wide


class CategoryEmbedding(nn.Module):
    r"""A learned vector for each known category of each column, from :math:`U(-1/\sqrt{d}, 1/\sqrt{d})` at first.

    A missing one is zeros. One that training never saw is the mean of the known ones of its column: a vector of its own
    would keep its random start, since no training row ever asks for it.

    Args:
        categories: the known categories of each column.
        dim: width of the vectors.
    """

    owner: Tensor
    offset: Tensor

    def __init__(self, categories: Mapping[str, Sequence[str]], dim: int) -> None:
        super().__init__()
        sizes = torch.tensor([len(known) for known in categories.values()])
        self.register_buffer("owner", torch.arange(len(sizes)).repeat_interleave(sizes), persistent=False)
        self.register_buffer("offset", len(sizes) + 1 + sizes.cumsum(0) - sizes, persistent=False)
        self.weight = nn.Parameter(torch.empty(int(sizes.sum()), dim).uniform_(-(dim**-0.5), dim**-0.5))

    def forward(self, codes: Int[Tensor, "batch category"]) -> Float[Tensor, "batch category dim"]:
        columns, known = len(self.offset), wide(self.weight)  # bfloat16 cannot count to 257
        zeros = known.new_zeros(columns, known.shape[1])
        counts = zeros[:, :1].index_add(0, self.owner, torch.ones_like(known[:, :1]))
        means = zeros.index_add(0, self.owner, known) / counts
        # Missing, unseen of each column, known of each column.
        table = torch.cat([zeros[:1], means, known]).to(self.weight.dtype)
        unseen = torch.arange(1, columns + 1, device=codes.device)
        rows = torch.where(codes == UNSEEN, unseen, codes - FIRST + self.offset)
        return F.embedding(torch.where(codes < UNSEEN, 0, rows), table)
