"""Fusion by factorised bilinear pooling: products of projections, summed in groups and normalised."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.linear import factor_linear
from mmfuse.layers.masking import wide
from mmfuse.layers.modalities import read_pooled
from mmfuse.layers.outer import product_of_present

# Under the square root and under the norm: the slope at 0 is 1000 instead of infinite.
_EPS = 1e-6


@recorded
class MFB(nn.Module):
    r"""Multiply projections that are ``rank`` times as wide as the result, sum groups of ``rank``, and normalise.

    .. math::
        z = \operatorname{SumPool}_k\bigl(\operatorname{dropout}(U_1 x_1 * \dots * U_M x_M)\bigr), \qquad
        s = \operatorname{sign}(z) \sqrt{|z|}, \qquad h = s / \lVert s \rVert_2

    :math:`k` is ``rank``, the number of rank-1 terms in each coordinate. The paper has two modalities; more are
    multiplied in the same way. The projections have biases, as in the authors' code, which start as large as what they
    are added to: so each modality comes through alone, too. The square root has an infinite slope at 0, so
    :math:`s = z / \sqrt{|z| + \epsilon}` and :math:`h = s / \sqrt{\lVert s \rVert^2 + \epsilon}` are computed, with
    :math:`\epsilon = 10^{-6}`. The result has length 1, so the head after it needs no norm.

    Source: Yu, Yu, Fan and Tao (2017), "Multi-modal Factorized Bilinear Pooling with Co-Attention Learning for Visual
    Question Answering", https://arxiv.org/abs/1708.01471.

    Reads: pooled vectors.

    Absent: its factor is 1, so that the product of the others remains; with no modality at all every coordinate of h is
    the same.

    Cost: ``rank dim`` times the sum of all widths, in parameters and in multiplications per sample.

    Use: as :class:`MLB`, with more capacity and an output of fixed length; the scale of the inputs is lost.

    Args:
        dims: width of each modality.
        dim: width of the fused vector.
        rank: products summed into each coordinate.
        dropout: of the products, before they are summed.

    Raises:
        ValueError: no modalities, a width or rank that is not positive, or a dropout outside [0, 1).
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int, *, rank: int = 5, dropout: float = 0.1) -> None:
        super().__init__()
        require_dims("MFB", dims, dim)
        require_positive("MFB", rank=rank)
        require_share("MFB", dropout=dropout)
        self.rank = rank
        self.project = nn.ModuleDict({name: factor_linear(width, rank * dim) for name, width in dims.items()})
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        pooled, present = read_pooled(features, self.project)
        factors = [self.project[name](x) for name, x in pooled.items()]
        # Wide from here on: a product that float16 cannot hold still has a direction.
        product = product_of_present([wide(factor) for factor in factors], present)
        z = self.dropout(product).unflatten(1, (-1, self.rank)).sum(dim=2)
        return Fused(Features.from_pooled(_normalised(z).to(factors[0].dtype), present.any(dim=1)))


def _normalised(z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Signed square root, then length 1."""
    root = z * (z.abs() + _EPS).rsqrt()
    return root * (root.square().sum(dim=1, keepdim=True) + _EPS).rsqrt()
