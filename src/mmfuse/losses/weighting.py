"""Several losses into one: ``{task: loss} -> loss``.

Each of these is affine in the losses, so the mean over equal pieces of a batch is the value of the whole: gradient
accumulation relies on that. A task that is not among the losses (no label known) has no part in the result.
"""

import functools
from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmfuse._checks import require_free_names, require_known_names, require_positive
from mmfuse._record import recorded


@recorded
class Sum(nn.Module):
    """The plain sum of the losses."""

    def forward(self, losses: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        return functools.reduce(torch.add, losses.values())


@recorded
class GivenWeights(nn.Module):
    """The sum of the losses, each times a given number.

    Args:
        weights: a positive number for every task of the model.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        require_positive("GivenWeights", **weights)
        self.weights = dict(weights)

    def forward(self, losses: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        require_known_names("GivenWeights", losses, self.weights, "task")
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()


@recorded
class UncertaintyWeighting(nn.Module):
    r"""Weights learned as the noise of each task (Kendall, Gal and Cipolla, 2018).

    .. math:: L = \sum_t \exp(-s_t) L_t + \tfrac12 s_t, \qquad s_t = \log \sigma_t^2

    The paper halves :math:`L_t` for a regression; that only shifts :math:`s_t` by :math:`\log 2`, so one form serves
    all. At the optimum :math:`s_t = \log 2 L_t`. The sum may be negative.

    Args:
        names: the tasks of the model.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        require_free_names("A task", names)
        self.log_variance = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in names})

    def forward(self, losses: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        require_known_names("UncertaintyWeighting", losses, self.log_variance, "task")
        terms = [
            loss * torch.exp(-self.log_variance[name]) + self.log_variance[name] / 2 for name, loss in losses.items()
        ]
        return torch.stack(terms).sum()
