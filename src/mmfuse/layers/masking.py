"""Means and softmaxes that read only what is real."""

from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(
    tokens: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch dim"]:
    """Mean of the real tokens; zeros for a sample that has none. Summed in float32 or better."""
    wide = tokens if tokens.itemsize > 4 else tokens.float()
    total = wide.masked_fill(~mask[..., None], 0.0).sum(dim=1)
    return (total / mask.sum(dim=1, keepdim=True).clamp_min(1)).to(tokens.dtype)


def masked_softmax(scores: Float[Tensor, "*batch n"], mask: Bool[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Softmax over the last axis, real entries only; zeros where a row has none. In float32 or better."""
    wide = scores if scores.itemsize > 4 else scores.float()
    # The smallest finite number, not -inf: a row that keeps nothing would be 0/0, in the gradient too.
    hidden = ~mask
    return wide.masked_fill(hidden, -3e38).softmax(dim=-1).masked_fill(hidden, 0.0).to(scores.dtype)
