"""Fusion by gates that read all modalities and open or close each coordinate of each."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_dims
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.masking import wide
from mmfuse.layers.modalities import by_name, read_pooled

Gates = Float[Tensor, "batch modality dim"]


@recorded
class GatedFusion(nn.Module):
    r"""Gated multimodal unit (GMU): a gate for each coordinate of each modality, made from all modalities.

    .. math::
        h_m = \tanh(W_m x_m + b_m), \qquad
        z_m = \sigma(U_m [x_1; \dots; x_M] + u_m) \quad (\text{if}\ M = 2\text{:}\ z_2 = 1 - z_1), \qquad
        h = \sum_m z_m * h_m

    Of two modalities the first has the gate :math:`z_1` and the second :math:`1 - z_1` (the paper's bimodal unit);
    three or more, or one, have independent gates. The paper writes no biases; they are here because each
    modality has its own range. ``Fused.weights`` are the gates, averaged over coordinates and normalised over the
    modalities present. The rows of ``gate`` are the coordinates of the first gate, then of the second, and so on, and
    its columns the modalities side by side, both in the order of ``dims``.

    Source: Arevalo, Solorio, Montes-y-Gomez, Gonzalez (2017), "Gated Multimodal Units for Information Fusion",
    https://arxiv.org/abs/1702.01992.

    Reads: pooled vectors.

    Absent: the gate of an absent modality is 0, and the other gates read zeros in its place. Of two modalities the one
    that is alone has the gate 1. A sample with nothing at all gives zeros.

    Cost: parameters and time grow as ``(M + 1) dim (sum of d_m)``: with the square of the number of modalities, except
    that two share one gate.

    Use: where one modality tells how far to trust another, coordinate by coordinate; a strong and cheap default. See
    ``SoftmaxGatedFusion`` for gates that compete.

    Args:
        dims: width of each modality.
        dim: width of the fused vector.

    Raises:
        ValueError: no modalities, or a width that is not positive.
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int) -> None:
        super().__init__()
        require_dims("GatedFusion", dims, dim)
        self.value = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.gate = nn.Linear(sum(dims.values()), dim if len(dims) == 2 else len(dims) * dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, self.value)  # present: (batch, modality)
        gates = self.gate(torch.cat(list(inputs.values()), dim=1)).sigmoid()
        if len(inputs) == 2:
            both = present.all(dim=1, keepdim=True)
            alone = (present & ~both)[..., None].to(gates.dtype)  # (batch, modality, 1)
            gates = torch.addcmul(alone, both[..., None].to(gates.dtype), torch.stack([gates, 1 - gates], dim=1))
        else:
            gates = gates.unflatten(1, (len(inputs), -1)) * present[..., None].to(gates.dtype)
        return _gated(self.value, inputs, present, gates)


@recorded
class SoftmaxGatedFusion(nn.Module):
    r"""Gates that compete: in each coordinate, the modalities that are present share the whole.

    .. math::
        h_m = \tanh(W_m x_m + b_m), \qquad
        z = \operatorname{softmax}_{m\ \text{present}}(U_m [x_1; \dots; x_M] + u_m), \qquad
        h = \sum_m z_m * h_m

    The symbols, and the order of rows and columns of ``gate``, are those of ``GatedFusion``. For two modalities it is
    the same function, with :math:`U = U_1 - U_2`; for more it is the other way to extend the pair :math:`z, 1 - z`.
    ``Fused.weights`` are the gates, averaged over coordinates.

    Source: the bimodal unit of Arevalo, Solorio, Montes-y-Gomez, Gonzalez (2017), "Gated Multimodal Units for
    Information Fusion", https://arxiv.org/abs/1702.01992, extended to more modalities by a softmax instead of the
    paper's independent gates.

    Reads: pooled vectors.

    Absent: an absent modality has the gate 0, the others share the whole and read zeros in its place. A sample with
    nothing at all gives zeros.

    Cost: parameters and time grow as ``(M + 1) dim (sum of d_m)``: with the square of the number of modalities.

    Use: as ``GatedFusion``, where modalities may be absent: the scale of the result does not depend on how many are
    there.

    Args:
        dims: width of each modality.
        dim: width of the fused vector.

    Raises:
        ValueError: no modalities, or a width that is not positive.
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int) -> None:
        super().__init__()
        require_dims("SoftmaxGatedFusion", dims, dim)
        self.value = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.gate = nn.Linear(sum(dims.values()), len(dims) * dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, self.value)  # present: (batch, modality)
        scores = self.gate(torch.cat(list(inputs.values()), dim=1)).unflatten(1, (len(inputs), -1))
        # The smallest finite number, not -inf: a sample that has nothing would be 0/0.
        gates = wide(scores).masked_fill(~present[..., None], -3e38).softmax(dim=1).to(scores.dtype)
        return _gated(self.value, inputs, present, gates * present[..., None].to(gates.dtype))


def _gated(
    values: nn.ModuleDict, inputs: Mapping[str, Tensor], present: Bool[Tensor, "batch modality"], gates: Gates
) -> Fused:
    """What passes the gates, which are 0 where absent."""
    hidden = torch.stack([values[name](x) for name, x in inputs.items()], dim=1).tanh()  # (batch, modality, dim)
    shares = wide(gates).mean(dim=2)  # (batch, modality)
    # Only a sample without a modality has no open gate at all: it keeps shares of 0.
    shares = (shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-30)).to(gates.dtype)
    pooled = (gates * hidden).sum(dim=1)
    return Fused(Features.from_pooled(pooled, present.any(dim=1)), weights=by_name(inputs, shares))
