"""An exponential moving average of the weights, which often scores better than the weights themselves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmfuse.distributed import local_part


class ExponentialMovingAverage:
    r"""The average of a model's weights over its last steps.

    .. math::
        a_t = \beta_t\, a_{t-1} + (1 - \beta_t)\, w_t, \qquad \beta_t = \min\left(\beta, \frac{1 + t}{10 + t}\right)

    Polyak and Juditsky, 1992; the first steps count less, so that the random weights of the start are soon forgotten.

    It holds the parameters that are trained when it is made, and the persistent buffers (statistics of BatchNorm);
    those that are not floating are copied. Make it when the model is on its device and shared out among the processes,
    and before a plan of :class:`~mmfuse.training.Unfreezing` freezes what is trained later. The average of bfloat16
    and float16 is in float32.

    Args:
        model: whose weights are averaged.
        decay: :math:`\beta`, from 0 to below 1; about ``1 - 1 / decay`` steps count.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(
                f"ExponentialMovingAverage got decay={decay}. Expected a number from 0 to below 1. Try 0.999."
            )
        self.decay = decay
        self.updates = 0
        persistent = model.state_dict().keys()
        self._live: dict[str, Tensor] = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        self._live |= {name: buffer for name, buffer in model.named_buffers() if name in persistent}
        self._averages = {name: _master(value) for name, value in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of now into the average: call it after each step of the optimizer."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        floating: list[tuple[Tensor, Tensor]] = []
        for name, average in self._averages.items():
            own, value = local_part(average), local_part(self._live[name])
            if average.is_floating_point():
                floating.append((own, value.to(own.dtype)))
            else:
                own.copy_(value)
        if floating:
            averages, values = map(list, zip(*floating, strict=True))
            get_ema_multi_avg_fn(decay)(averages, values, None)

    def copy_to_model(self) -> None:
        """Give the model the averaged weights for good."""
        _copy(self._averages, self._live)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model has the averaged weights inside of this context, and its own again after it."""
        own = {name: value.clone() for name, value in self._live.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            _copy(own, self._live)

    def state_dict(self) -> dict[str, Any]:
        """The averages, by number, their names, and the number of updates."""
        averages = dict(enumerate(self._averages.values()))
        return {"updates": self.updates, "names": list(self._averages), "averages": averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` gave."""
        if list(state["names"]) != list(self._averages):
            differing = sorted(set(state["names"]) ^ set(self._averages))
            raise ValueError(
                f"The moving average that was saved holds other weights than this model trains: they differ in "
                f"{differing[:5]}. Expected the same ones in the same order. Build and freeze the model as before."
            )
        self.updates = int(state["updates"])
        _copy(
            dict(zip(self._averages, (state["averages"][i] for i in range(len(self._averages))), strict=True)),
            self._averages,
        )


def _master(value: Tensor) -> Tensor:
    """A copy, in float32 where a half precision would lose the small changes."""
    return value.detach().to(
        torch.float32 if value.dtype in (torch.bfloat16, torch.float16) else value.dtype, copy=True
    )


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, value in target.items():
        value.copy_(source[name])
