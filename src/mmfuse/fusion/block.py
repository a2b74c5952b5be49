"""Fusion of two modalities by a Tucker decomposition whose core is block-diagonal."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmfuse._checks import require_positive, require_share, require_two
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.linear import unit_linear
from mmfuse.layers.modalities import read_pooled
from mmfuse.layers.outer import product_of_present


@recorded
class BLOCK(nn.Module):
    r"""Cut both projections into chunks, multiply chunk by chunk in ``rank`` ways, and project what comes together.

    .. math::
        h = W_o [z_1; \dots; z_C], \qquad z_c = \sum_{r=1}^{R} (U_{cr} (A x)_c) * (V_{cr} (B y)_c)

    :math:`(A x)_c` is the c-th of C equal chunks of :math:`A x`. A and B are ``project``; ``factor`` holds all
    :math:`U_{cr}` (or :math:`V_{cr}`), one matrix (chunk, rank times chunk) for each chunk, transposed, and
    ``factor_bias`` their biases; :math:`W_o` is ``out``. All chunks go through one batched product. Each slice of a
    block has rank R, as in the paper; its authors' code also normalises each :math:`z_c` (signed square root, l2), the
    equation does not, nor do we. With one chunk it is :class:`MUTAN`, and starts like it.

    Source: Ben-younes, Cadene, Thome and Cord (2019), "BLOCK: Bilinear Superdiagonal Fusion for Visual Question
    Answering and Visual Relationship Detection", https://arxiv.org/abs/1902.00038.

    Reads: pooled vectors, two modalities.

    Absent: its factor is 1 (after :math:`U_{cr}`), so that the other's, summed over r, remains; with none at all z
    is R in every coordinate.

    Cost: ``width (d_1 + d_2 + 2 rank width / chunks + dim)`` parameters and as many multiplications per sample.

    Use: as :class:`MUTAN`, with more chunks for larger ``width`` and ``rank``; chunks are between MUTAN (one) and
    products of single coordinates (``width`` of them).

    Args:
        dims: width of each of the two modalities.
        dim: width of the fused vector.
        width: of both projections, a multiple of ``chunks``; the first one from ``dim`` on if None.
        chunks: blocks of the core.
        rank: products summed into each coordinate.
        dropout: of z.

    Raises:
        ValueError: not two modalities, a width, rank or number of chunks that is not positive, a width that cannot be
            cut into equal chunks, or a dropout outside [0, 1).
    """

    reads = "pooled"
    num_modalities = 2

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int,
        *,
        width: int | None = None,
        chunks: int = 8,
        rank: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_two("BLOCK", dims, dim, instead="MFB")
        require_positive("BLOCK", chunks=chunks, rank=rank)
        require_share("BLOCK", dropout=dropout)
        width = -(-dim // chunks) * chunks if width is None else width
        _require_equal_chunks(width, chunks)
        chunk = width // chunks
        self.chunks, self.rank = chunks, rank
        self.project = nn.ModuleDict({name: unit_linear(size, width) for name, size in dims.items()})
        std = 0.5**0.5 * rank**-0.25  # of each half of a factor: the sum of R products of two has variance 1
        self.factor = nn.ParameterDict({n: _normal(chunks, chunk, rank * chunk, std=std * chunk**-0.5) for n in dims})
        self.factor_bias = nn.ParameterDict({n: _normal(chunks, 1, rank * chunk, std=std) for n in dims})
        self.dropout = nn.Dropout(dropout)
        self.out = unit_linear(width, dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        pooled, present = read_pooled(features, self.project)
        products = product_of_present([self._factor(name, x) for name, x in pooled.items()], present)
        z = products.unflatten(2, (self.rank, -1)).sum(dim=2).transpose(0, 1).flatten(1)  # (batch, width)
        return Fused(Features.from_pooled(self.out(self.dropout(z)), present.any(dim=1)))

    def _factor(self, name: str, x: Float[Tensor, "batch _"]) -> Float[Tensor, "chunk batch rank_times_chunk"]:
        chunks = self.project[name](x).unflatten(1, (self.chunks, -1)).transpose(0, 1)  # (chunk, batch, dim/chunk)
        return torch.baddbmm(self.factor_bias[name], chunks, self.factor[name])


def _normal(*sizes: int, std: float) -> nn.Parameter:
    return nn.Parameter(torch.randn(*sizes) * std)


def _require_equal_chunks(width: int, chunks: int) -> None:
    require_positive("BLOCK", width=width)
    if width % chunks:
        raise ValueError(
            f"BLOCK cannot cut width={width} into chunks={chunks} equal chunks. Expected a multiple. "
            f"Choose width={-(-width // chunks) * chunks} or another number of chunks."
        )
