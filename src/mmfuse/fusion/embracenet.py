"""Fusion by chance: in training, each coordinate comes from one modality, drawn at random."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_known_names, require_names, require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.masking import wide
from mmfuse.layers.modalities import by_name, read_pooled


@recorded
class EmbraceNet(nn.Module):
    r"""In training, each coordinate of the fused vector is drawn from one of the modalities that are present.

    .. math::
        d_m = \operatorname{relu}(W_m x_m + b_m), \qquad
        r_i \sim \operatorname{Multinomial}(1, p), \qquad
        h_i = \sum_m r_{im}\, d_{mi}

    Here :math:`x_m` is the pooled vector of modality m, :math:`d_m` its docking layer, :math:`i` a coordinate and
    :math:`p` the probability of each modality, over those present. In evaluation mode h is its expectation,
    :math:`\sum_m p_m d_m`, where the paper draws as in training: so the same sample gives the same answer. Draws are
    from torch's global generator of the device, anew for each sample and coordinate. ``Fused.weights`` are the
    :math:`p_m`.

    Source: Choi, Lee (2019), "EmbraceNet: A robust deep learning architecture for multimodal classification",
    https://arxiv.org/abs/1904.09078.

    Reads: pooled vectors.

    Absent: an absent modality is not drawn, and :math:`p` is made to sum to 1 over the others, as in the paper. A
    sample with nothing at all gives zeros.

    Cost: parameters and time grow as ``dim (sum of d_m)``; the draw costs one random number for each coordinate.

    Use: where modalities fall out in use: training has seen every coordinate come from any modality. Modalities
    learn to stand in for each other, so use another method where they mean something only together.

    Args:
        dims: width of each modality.
        dim: width of the fused vector.
        probabilities: a positive number for each modality, in any unit; equal if None.

    Raises:
        ValueError: no modalities, a width that is not positive, or probabilities that are not one positive number for
            each.
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int, *, probabilities: Mapping[str, float] | None = None) -> None:
        super().__init__()
        require_dims("EmbraceNet", dims, dim)
        probabilities = dict.fromkeys(dims, 1.0) if probabilities is None else probabilities
        owner = "EmbraceNet(probabilities=...)"
        require_names(owner, probabilities, dims, "Give one probability for each modality.")
        require_known_names(owner, probabilities, dims, "modality")
        require_positive(owner, **probabilities)
        self.dock = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.p: Tensor
        given = torch.tensor([float(probabilities[name]) for name in dims])
        self.register_buffer("p", given / given.sum())

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, self.dock)  # present: (batch, modality)
        docked = torch.stack([self.dock[name](x) for name, x in inputs.items()], dim=1)  # before relu
        share = wide(self.p) * present
        share = share / share.sum(dim=1, keepdim=True).clamp_min(1e-30)  # (batch, modality)
        if self.training:
            pooled = _drawn(docked, share).relu()  # the same as to draw from relu(docked), on fewer numbers
        else:
            pooled = torch.einsum("bm,bmd->bd", share.to(docked.dtype), docked.relu())
        return Fused(Features.from_pooled(pooled, present.any(dim=1)), weights=by_name(inputs, share))


def _drawn(
    docked: Float[Tensor, "batch modality dim"], share: Float[Tensor, "batch modality"]
) -> Float[Tensor, "batch dim"]:
    """Each coordinate from one modality, drawn by its share; zeros where no share is above 0."""
    end = share.cumsum(dim=1)
    # The last end is exactly 1, so that every number below 1 falls somewhere; without a share all ends are 0.
    end = (end / end[:, -1:].clamp_min(1e-30))[..., None]  # (batch, modality, 1)
    number = torch.rand(docked.shape[0], 1, docked.shape[2], dtype=share.dtype, device=docked.device)
    before = number < end  # and so before all later ends, too
    drawn = torch.cat([before[:, :1], before[:, 1:] ^ before[:, :-1]], dim=1)  # (batch, modality, dim)
    return (docked * drawn.to(docked.dtype)).sum(dim=1)
