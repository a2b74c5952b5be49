"""Fusion by one weight per modality."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_known_names, require_names, require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.masking import masked_softmax


@recorded
class WeightedAverage(nn.Module):
    r"""Average of the projected modalities, with weights that are learned or given, the same for every sample.

    .. math::
        a = \operatorname{softmax}_{m\ \text{present}}(w), \qquad h = \sum_m a_m (P_m x_m + c_m)

    Given weights :math:`v_m > 0` stand for :math:`w_m = \log v_m`, so that :math:`a_m = v_m / \sum_{n\ \text{present}}
    v_n`. Absent modalities have no share; a sample with no modality at all comes out as zeros. Parameters and time grow
    linearly with the number of modalities and their widths. An average only adds: it cannot see that modalities mean
    something together, so use it where each could answer alone.

    Args:
        dims: width of each modality.
        dim: width of the fused vector.
        weights: a positive number for each modality; learned if None.
    """

    def __init__(self, dims: Mapping[str, int], dim: int, *, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        require_dims("WeightedAverage", dims, dim)
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.register_buffer("given", None)
        if weights is None:
            self.score = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in dims})
        else:
            require_names("WeightedAverage(weights=...)", weights, dims, "Give one weight for each modality.")
            require_known_names("WeightedAverage(weights=...)", weights, dims, "modality")
            require_positive("WeightedAverage(weights=...)", **weights)
            self.given = torch.tensor([float(weights[name]) for name in dims]).log()

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs = {name: features[name].zeroed() for name in self.project}
        present = torch.stack([x.present for x in inputs.values()], dim=1)  # (batch, modality)
        weights = masked_softmax(self._scores().expand(present.shape), present)  # (batch, modality)
        values = torch.stack([self.project[name](x.pooled) for name, x in inputs.items()], dim=1)
        pooled = torch.einsum("bm,bmd->bd", weights.to(values.dtype), values)
        return Fused(
            Features.from_pooled(pooled, present.any(dim=1)),
            weights=dict(zip(inputs, weights.unbind(dim=1), strict=True)),
        )

    def _scores(self) -> Tensor:
        if self.given is not None:
            return self.given
        return torch.stack([self.score[name] for name in self.project])
