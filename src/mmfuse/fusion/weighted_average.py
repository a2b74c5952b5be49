"""Fusion by one weight per modality."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_known_names, require_names, require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.masking import masked_softmax
from mmfuse.layers.modalities import by_name, read_pooled


@recorded
class WeightedAverage(nn.Module):
    r"""Average of the projected modalities, with weights that are learned or given, the same for every sample.

    .. math::
        a = \operatorname{softmax}_{m\ \text{present}}(w), \qquad h = \sum_m a_m (P_m x_m + c_m)

    Here :math:`x_m` is the pooled vector of modality m, :math:`P_m, c_m` its projection and :math:`w` one number for
    each modality. Given weights :math:`v_m > 0` stand for :math:`w_m = \log v_m`, so that :math:`a_m = v_m /
    \sum_{n\ \text{present}} v_n`. ``Fused.weights`` are the :math:`a_m`.

    Source: folklore; the "weighted" combination of Gu and Budhkar (2021), "A Package for Learning on Tabular and Text
    Data with Transformers", https://doi.org/10.18653/v1/2021.maiworkshop-1.10, has a weight for each coordinate and no
    softmax.

    Reads: pooled vectors.

    Absent: an absent modality has no share, and the others share the whole. A sample with nothing at all gives zeros.

    Cost: parameters and time grow as ``dim (sum of d_m)``.

    Use: where each modality could answer alone. An average only adds: it cannot see that modalities mean something
    together.

    Args:
        dims: width of each modality.
        dim: width of the fused vector.
        weights: a positive number for each modality; learned if None.

    Raises:
        ValueError: no modalities, a width that is not positive, or weights that are not one positive number for each.
    """

    reads = "pooled"

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
        inputs, present = read_pooled(features, self.project)  # present: (batch, modality)
        weights = masked_softmax(self._scores().expand(present.shape), present)  # (batch, modality)
        values = torch.stack([self.project[name](x) for name, x in inputs.items()], dim=1)
        pooled = torch.bmm(weights.to(values.dtype)[:, None], values).squeeze(1)
        return Fused(
            Features.from_pooled(pooled, present.any(dim=1)),
            weights=by_name(inputs, weights),
        )

    def _scores(self) -> Tensor:
        if self.given is not None:
            return self.given
        return torch.stack([self.score[name] for name in self.project])
