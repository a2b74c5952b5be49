"""Fusion by concatenation: pooled vectors, side by side, through an MLP."""

from collections.abc import Mapping

import torch
from torch import nn

from mmfuse._checks import require_dims
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused


@recorded
class Concat(nn.Module):
    r"""Project each modality, concatenate, and mix with an MLP of one hidden layer.

    .. math::
        h = \operatorname{MLP}([P_1 x_1; \dots; P_M x_M]), \qquad
        \operatorname{MLP}(z) = W_2 \operatorname{dropout}(\operatorname{GELU}(W_1 z + b_1)) + b_2

    The slot of an absent modality holds a learned vector of its own. (Zeros would be a value like any other.)
    Parameters and time grow linearly with the widths, and with the square of the number of modalities only through
    ``M dim`` of the hidden layer. The baseline to beat; use it first.

    Args:
        dims: width of each modality, for example ``{"text": 768, "audio": 128}``.
        dim: width of each projection, of the hidden layer and of the fused vector.
        dropout: between the layers of the MLP.
    """

    def __init__(self, dims: Mapping[str, int], dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        require_dims("Concat", dims, dim)
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.absent = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(dim)) for name in dims})
        self.mix = nn.Sequential(nn.Linear(len(dims) * dim, dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(dim, dim))

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs = {name: features[name].zeroed() for name in self.project}
        slots = [
            torch.where(x.present[:, None], self.project[name](x.pooled), self.absent[name])
            for name, x in inputs.items()
        ]
        present = torch.stack([x.present for x in inputs.values()], dim=1)  # (batch, modality)
        return Fused(Features.from_pooled(self.mix(torch.cat(slots, dim=1)), present.any(dim=1)))
