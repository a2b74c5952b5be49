"""Fusion of two modalities by a Tucker decomposition whose core has slices of low rank."""

from collections.abc import Mapping

from torch import nn

from mmfuse._checks import require_positive, require_share, require_two
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.linear import factor_linear, unit_linear
from mmfuse.layers.modalities import read_pooled
from mmfuse.layers.outer import product_of_present


@recorded
class MUTAN(nn.Module):
    r"""Project both modalities, multiply them in ``rank`` ways, sum the products, and project the sum.

    .. math::
        h = W_o \sum_{r=1}^{R} (U_r A x) * (V_r B y)

    A and B are ``project``, all :math:`U_r` (or :math:`V_r`), one below the other, are ``factor``, and :math:`W_o` is
    ``out``; each has a bias, as in the authors' code, which with tanh behind A and B is their model for question
    answering. The equation has no tanh, nor have we: so :class:`BLOCK` with one chunk is this method. Weights start
    so that the sum has the variance of the inputs, and the biases of :math:`U_r` and :math:`V_r` as large as what they
    are added to: so each modality comes through alone, too.

    Source: Ben-younes, Cadene, Cord and Thome (2017), "MUTAN: Multimodal Tucker Fusion for Visual Question Answering",
    https://arxiv.org/abs/1705.06676.

    Reads: pooled vectors, two modalities.

    Absent: its factor is 1 (after :math:`U_r`), so that :math:`W_o \sum_r V_r B y` remains; with none at all the
    sum is R in every coordinate.

    Cost: ``width (d_1 + d_2 + 2 rank width + dim)`` parameters and as many multiplications per sample.

    Use: as :class:`MLB` for two modalities, where one product a coordinate is too few. :class:`BLOCK` reaches larger
    ``width`` and ``rank`` with as many parameters.

    Args:
        dims: width of each of the two modalities.
        dim: width of the fused vector.
        width: of both projections and of the sum; ``dim`` if None.
        rank: products summed into each coordinate.
        dropout: of the sum.

    Raises:
        ValueError: not two modalities, a width or rank that is not positive, or a dropout outside [0, 1).
    """

    reads = "pooled"
    num_modalities = 2

    def __init__(
        self, dims: Mapping[str, int], dim: int, *, width: int | None = None, rank: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        require_two("MUTAN", dims, dim, instead="MFB")
        width = dim if width is None else width
        require_positive("MUTAN", width=width, rank=rank)
        require_share("MUTAN", dropout=dropout)
        self.rank = rank
        self.project = nn.ModuleDict({name: unit_linear(size, width) for name, size in dims.items()})
        gain = rank**-0.25  # with which the sum of R products of two has variance 1
        self.factor = nn.ModuleDict({name: factor_linear(width, rank * width, gain=gain) for name in dims})
        self.dropout = nn.Dropout(dropout)
        self.out = unit_linear(width, dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        pooled, present = read_pooled(features, self.project)
        factors = [self.factor[name](self.project[name](x)) for name, x in pooled.items()]
        z = product_of_present(factors, present).unflatten(1, (self.rank, -1)).sum(dim=1)
        return Fused(Features.from_pooled(self.out(self.dropout(z)), present.any(dim=1)))
