"""Fusion by the outer product of all modalities: every interaction of every order."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from mmfuse._checks import require_dims, require_known_names, require_names, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.linear import unit_linear
from mmfuse.layers.modalities import read_pooled
from mmfuse.layers.outer import contract, with_one

# Numbers in the outer product of one sample that the default widths stay below: three modalities of width 16.
_LARGEST_PRODUCT = 5000


@recorded
class TensorFusion(nn.Module):
    r"""A linear map of the outer product of all modalities, each with a 1 appended.

    .. math::
        h = W \operatorname{vec}\bigl([z_1; 1] \otimes \dots \otimes [z_M; 1]\bigr), \qquad z_m = f_m(x_m)

    The appended ones keep the terms of lower order: W's slice at the last index of all other axes is the linear map of
    one modality alone, and so on; the slice at the last index of all is the bias. ``core`` is W as a tensor
    (d_1 + 1, ..., d_M + 1, dim), axes in the order of ``dims``. :math:`f_m` is the paper's small network of each
    modality, here one linear layer with GELU, that makes the product affordable; a modality as wide as its entry in
    ``widths`` enters as it is. The product is not built: see :func:`mmfuse.layers.outer.contract`.

    Source: Zadeh, Chen, Poria, Cambria and Morency (2017), "Tensor Fusion Network for Multimodal Sentiment Analysis",
    https://arxiv.org/abs/1707.07250.

    Reads: pooled vectors.

    Absent: its vector is 0 and the appended 1 stays, so that all terms without it remain; with none at all,
    the bias.

    Cost: ``dim`` times the product of all (width + 1) parameters and multiplications per sample: exponential in the
    number of modalities. The default widths keep that product below 5000 (up to twelve modalities).

    Use: for two to four modalities when interactions of all orders may matter and there is enough data for them;
    else :class:`LowRankFusion`, which is the same with W in factors.

    Args:
        dims: width of each modality.
        dim: width of the fused vector.
        widths: width of each modality in the product; all the same if None, and none above its own.
        dropout: of what enters the product.

    Raises:
        ValueError: no modalities, ``widths`` that do not name each of them, a width that is not positive, or a dropout
            outside [0, 1).
    """

    reads = "pooled"

    def __init__(
        self, dims: Mapping[str, int], dim: int, *, widths: Mapping[str, int] | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__()
        require_dims("TensorFusion", dims, dim)
        require_share("TensorFusion", dropout=dropout)
        if widths is None:
            width = max(int(_LARGEST_PRODUCT ** (1 / len(dims))) - 1, 1)
            widths = {name: min(width, own) for name, own in dims.items()}
        require_names("TensorFusion(widths=...)", widths, dims, "Give a width for each modality.")
        require_known_names("TensorFusion(widths=...)", widths, dims, "modality")
        require_positive("TensorFusion(widths=...)", **widths)
        self.project = nn.ModuleDict({name: _small_network(own, widths[name]) for name, own in dims.items()})
        self.dropout = nn.Dropout(dropout)
        sizes = [widths[name] + 1 for name in dims]
        self.core = nn.Parameter(torch.randn(*sizes, dim) * math.prod(sizes) ** -0.5)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        pooled, present = read_pooled(features, self.project)
        # Zeroed once more: the small network of an absent modality gives its bias.
        small = [
            self.dropout(self.project[name](x)).masked_fill(~here, 0.0)
            for (name, x), here in zip(pooled.items(), present.split(1, dim=1), strict=True)
        ]
        h = contract(self.core, [with_one(z) for z in small])
        return Fused(Features.from_pooled(h, present.any(dim=1)))


def _small_network(width: int, narrow: int) -> nn.Module:
    return nn.Identity() if narrow == width else nn.Sequential(unit_linear(width, narrow), nn.GELU())
