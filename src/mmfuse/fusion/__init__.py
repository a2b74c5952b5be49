"""Fusion methods: ``{name: Features} -> Fused``, one published method a file.

Every method is built as ``Method(dims, dim)``, keeps the promises of :func:`mmfuse.testing.check_fusion`, and takes a
single modality as well as many.
"""

from torch import nn

from mmfuse.fusion.concat import Concat
from mmfuse.fusion.cross_attention import CrossAttention
from mmfuse.fusion.weighted_average import WeightedAverage

FUSIONS: dict[str, type[nn.Module]] = {
    "Concat": Concat,
    "CrossAttention": CrossAttention,
    "WeightedAverage": WeightedAverage,
}

__all__ = ["FUSIONS", "Concat", "CrossAttention", "WeightedAverage"]
