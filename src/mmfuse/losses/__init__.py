"""Losses: one scalar per task over the samples whose label is known, then one scalar for all tasks."""

from torch import nn

from mmfuse.losses.gather import gather
from mmfuse.losses.task_losses import known_counts, sample_losses, task_losses, unknown_like
from mmfuse.losses.weighting import GivenWeights, Sum, UncertaintyWeighting

WEIGHTINGS: dict[str, type[nn.Module]] = {
    "GivenWeights": GivenWeights,
    "Sum": Sum,
    "UncertaintyWeighting": UncertaintyWeighting,
}

__all__ = [
    "WEIGHTINGS",
    "GivenWeights",
    "Sum",
    "UncertaintyWeighting",
    "gather",
    "known_counts",
    "sample_losses",
    "task_losses",
    "unknown_like",
]
