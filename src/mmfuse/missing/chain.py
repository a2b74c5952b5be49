"""Several ways of handling absence, one after the other: {name: Features} -> {name: Features}."""

from collections.abc import Mapping, Sequence

from torch import nn

from mmfuse._record import recorded
from mmfuse.contracts import Features


@recorded
class Chain(nn.Module):
    """Run each part on what the one before it gave.

    For example modalities hidden in training, and placeholders for them::

        missing = Chain([ModalityDropout(0.3), Placeholder(dims_of(encoders))])

    Args:
        parts: ``{modality: Features} -> {modality: Features}`` each, the first one first.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        if isinstance(parts, nn.Module) or not parts:
            given = f"a single {type(parts).__name__}" if isinstance(parts, nn.Module) else "no parts"
            raise ValueError(
                f"Chain got {given}. Expected a list of parts to run one after the other. "
                "Write Chain([ModalityDropout(0.3), Placeholder(dims)]), or missing=None for no part at all."
            )
        self.parts = nn.ModuleList(parts)

    def forward(self, features: Mapping[str, Features]) -> Mapping[str, Features]:
        for part in self.parts:
            features = part(features)
        return features
