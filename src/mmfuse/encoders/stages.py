"""The parts of an encoder that learn one after the other: its backbone, and the stages of it, lowest first."""

from collections.abc import Sequence
from typing import Any

from torch import nn


def backbone_of(encoder: Any) -> nn.Module:
    """The part of an encoder that may be pretrained; all of it if it does not say."""
    return getattr(encoder, "backbone", encoder)


def stages_of(encoder: Any) -> list[list[nn.Module]]:
    """The stages of a backbone, lowest first: what stands before the layers, then each layer. What is in none of them
    stands above. An encoder that does not say has one stage, its backbone.
    """
    return getattr(encoder, "stages", None) or [[backbone_of(encoder)]]


def is_frozen(parts: Sequence[nn.Module]) -> bool:
    """Whether some modules have parameters, and none of them is trained."""
    trained = [parameter.requires_grad for part in parts for parameter in part.parameters()]
    return bool(trained) and not any(trained)
