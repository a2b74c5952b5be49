"""Linear layers that keep the variance of what they read, and one whose bias depends on the sample."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def unit_linear(width: int, dim: int, *, bias: bool = True, gain: float = 1.0) -> nn.Linear:
    """A linear layer whose outputs have ``gain ** 2`` times the variance of independent inputs; its bias is 0.

    torch's default gives a third: a product of M such layers would start with a variance of 3 to the power of -M.
    """
    layer = nn.Linear(width, dim, bias=bias)
    nn.init.normal_(layer.weight, std=gain * width**-0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def factor_linear(width: int, dim: int, *, gain: float = 1.0) -> nn.Linear:
    """A linear layer whose outputs are factors of a product: weight and bias give half of the variance each.

    So the product starts with terms of all orders in equal shares. With biases of 0 there would be the highest order
    alone, and what one modality says by itself would be learned last.
    """
    layer = unit_linear(width, dim, gain=gain * 0.5**0.5)
    nn.init.normal_(layer.bias, std=gain * 0.5**0.5)
    return layer


def add_linear(
    start: Float[Tensor, "batch dim"], layer: nn.Linear, x: Float[Tensor, "batch width"]
) -> Float[Tensor, "batch dim"]:
    """``start + W x``: the layer with what the samples give in place of its bias, in one kernel."""
    return torch.addmm(start, x, layer.weight.T)


def linear_or(
    absent: Float[Tensor, " dim"],
    layer: nn.Linear,
    x: Float[Tensor, "batch width"],
    which: Float[Tensor, "batch 2"],
) -> Float[Tensor, "batch dim"]:
    """The layer for some samples, and a vector for those that have no x: theirs must be 0.

    The vector takes the place of the bias, in a product so small that it costs less than to choose afterwards.

    Args:
        absent: the vector.
        layer: with a bias.
        x: its input.
        which: [1, 0] for a sample that has x, [0, 1] for one that has not, as :func:`either` gives them.
    """
    return add_linear(which @ torch.stack([layer.bias, absent]), layer, x)


def either(present: Bool[Tensor, "*axes"], dtype: torch.dtype) -> Float[Tensor, "*axes 2"]:
    """[1, 0] where present, [0, 1] where not."""
    return torch.stack([present, ~present], dim=-1).to(dtype)
