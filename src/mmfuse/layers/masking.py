"""Means and softmaxes that read only what is real, in float32 or better."""

from jaxtyping import Bool, Float
from torch import Tensor


def wide(values: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The same values in float32, or in their own type if that is better: for sums, norms and softmaxes."""
    return values if values.itemsize > 4 else values.float()


def mean_of_real(values: Float[Tensor, "*axes"], real: Bool[Tensor, "*axes"]) -> Float[Tensor, ""]:
    """One mean of all real values; 0 where there is none."""
    return values.masked_fill(~real, 0.0).sum() / real.sum().clamp_min(1)


def masked_mean(
    tokens: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch dim"]:
    """Mean of the real tokens; zeros for a sample that has none. Summed in float32 or better."""
    total = wide(tokens).masked_fill(~mask[..., None], 0.0).sum(dim=1)
    return (total / mask.sum(dim=1, keepdim=True).clamp_min(1)).to(tokens.dtype)


def masked_softmax(scores: Float[Tensor, "*batch n"], mask: Bool[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Softmax over the last axis, real entries only; zeros where a row has none. In float32 or better."""
    # The smallest finite number, not -inf: a row that keeps nothing would be 0/0, in the gradient too.
    hidden = ~mask
    return wide(scores).masked_fill(hidden, -3e38).softmax(dim=-1).masked_fill(hidden, 0.0).to(scores.dtype)
