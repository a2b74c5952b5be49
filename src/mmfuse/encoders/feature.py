"""Features that are given, passed on: (batch, dim) or (batch, time, dim) -> Features."""

from torch import nn

from mmfuse._checks import require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.layers.masking import masked_mean


@recorded
class FeatureEncoder(nn.Module):
    """No encoder at all: the input is features already, one vector a sample or a sequence of vectors.

    A vector ``(batch, dim)`` is its own only token. A sequence ``(batch, time, dim)`` keeps its steps as tokens, with
    the mask of the input, and its pooled vector is the mean of the real ones. There are no parameters.

    Args:
        dim: width of the vectors.

    Raises:
        ValueError: in ``forward`` if the input has another shape.
    """

    pretrained = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        require_positive("FeatureEncoder", dim=dim)
        self.dim = dim

    def forward(self, input: Input) -> Features:
        values = input.values
        if values.dim() not in (2, 3) or values.shape[-1] != self.dim:
            raise ValueError(
                f"FeatureEncoder input has shape {tuple(values.shape)}. Expected (batch, dim={self.dim}) or "
                f"(batch, time, dim={self.dim}). Build it with the width of the features."
            )
        if values.dim() == 2:
            return Features.from_pooled(values, input.present)
        mask = input.present[:, None].expand(values.shape[:2])
        mask = mask if input.mask is None else mask & input.mask
        return Features(values, mask, masked_mean(values, mask))
