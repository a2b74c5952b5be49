"""Random changes to a time series (time, width), for Augment.

``Jitter`` and ``Scaling`` change the ``channels`` values that come first, and leave alone what ``SeriesTransform`` puts
beside them: flags of what was observed, and elapsed time. Values are standardised by then.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mmfuse._checks import require_not_negative, require_positive
from mmfuse._record import recorded


@recorded
class Jitter:
    r"""Noise on each value (Um et al., 2017, https://arxiv.org/abs/1706.00527); a filled gap stays as it is.

    .. math:: y_{tc} = x_{tc} + \sigma n_{tc}, \qquad n_{tc} \sim N(0, 1)

    Args:
        std: of the noise, as a share of the standard deviation of the training data; 0.05 is little.
        channels: how many values a step has.
    """

    def __init__(self, std: int | float, channels: int) -> None:
        require_not_negative("Jitter", std=std)
        require_positive("Jitter", channels=channels)
        self.std, self.channels = std, channels

    def __call__(self, series: Float[Tensor, "time width"]) -> Float[Tensor, "time width"]:
        values, beside = _split("Jitter", series, self.channels)
        noise = self.std * torch.randn_like(values)
        if beside.shape[1] == 2 * self.channels:  # flags and elapsed times, as with gaps="keep"
            noise = noise * beside[:, : self.channels]
        return torch.cat([values + noise, beside], dim=1)


@recorded
class Scaling:
    r"""Each channel larger or smaller about its mean, by one factor a sample (Um et al., 2017).

    .. math:: y_{tc} = f_c\, x_{tc}, \qquad f_c \sim N(1, \sigma^2)

    Args:
        std: of the factors; 0.1 is usual.
        channels: how many values a step has.
    """

    def __init__(self, std: int | float, channels: int) -> None:
        require_not_negative("Scaling", std=std)
        require_positive("Scaling", channels=channels)
        self.std, self.channels = std, channels

    def __call__(self, series: Float[Tensor, "time width"]) -> Float[Tensor, "time width"]:
        values, beside = _split("Scaling", series, self.channels)
        return torch.cat([values * (1 + self.std * torch.randn(self.channels)), beside], dim=1)


@recorded
class Crop:
    """A stretch of the series, from a uniform start; the steps keep their order, and all that stands beside them.

    Args:
        share: how much of the steps is kept, rounded up; 0.9 takes a tenth away.
    """

    def __init__(self, share: int | float) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"Crop got share={share}. Expected a share above 0 and up to 1. Try share=0.9.")
        self.share = share

    def __call__(self, series: Float[Tensor, "time width"]) -> Float[Tensor, "kept width"]:
        kept = math.ceil(self.share * len(series))
        start = int(torch.randint(len(series) - kept + 1, ()))
        return series[start : start + kept]


def _split(owner: str, series: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    if series.dim() != 2 or series.shape[1] < channels:
        raise ValueError(
            f"{owner} got a series of shape {tuple(series.shape)}. Expected (time, width) with at least "
            f"channels={channels} values a step. Give the channels of the transform."
        )
    return series[:, :channels], series[:, channels:]
