"""Features that are given, passed on: (batch, dim) or (batch, time, dim) -> Features."""

from torch import nn

from mmfuse._checks import require_count
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.feature import FeatureTransform
from mmfuse.encoders._inputs import require_width, token_mask
from mmfuse.layers.masking import masked_mean


@recorded
class FeatureEncoder(nn.Module):
    """No encoder at all: the input is features already, one vector a sample or a sequence of vectors.

    A vector ``(batch, dim)`` is its own only token. A sequence ``(batch, time, dim)`` keeps its steps as tokens, with
    the mask of the input, and its pooled vector is the mean of the real ones. There are no parameters.

    Args:
        dim: width of the vectors.
        sequence: read sequences from a table, not single vectors. ``forward`` takes both.
        key: which array of a file that holds several.
        max_steps: longer sequences are cut off when they are read.

    Raises:
        ValueError: in ``forward`` if the input has another shape.
    """

    pretrained = False

    def __init__(
        self, dim: int, *, sequence: bool = False, key: str | None = None, max_steps: int | None = None
    ) -> None:
        super().__init__()
        require_count("FeatureEncoder", dim=dim)
        self.dim = dim
        self._transform = FeatureTransform(dim, sequence=sequence, key=key, max_steps=max_steps)

    def forward(self, input: Input) -> Features:
        require_width("FeatureEncoder", input, self.dim, name="dim")
        if input.values.dim() == 2:
            return Features.from_pooled(input.values, input.present)
        mask = token_mask(input)
        return Features(input.values, mask, masked_mean(input.values, mask))

    def transform(self, train: bool = False) -> FeatureTransform:  # noqa: ARG002 (no random changes to features)
        """From a cell or file of a table to what ``forward`` takes."""
        return self._transform
