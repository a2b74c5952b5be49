"""The gradients of a step, as one vector: forgotten, measured, clipped."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from mmfuse.distributed import is_shared_out, local_part


class Gradients:
    """The gradients of all parameters of an optimizer together, whether processes share them out or not.

    What the parameters are is looked at once: torch's own functions sort hundreds of gradients by type in every step.

    Args:
        optimizer: which may get more parameters of the same kind later.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._shared = any(map(is_shared_out, self._parameters()))
        kinds = {(parameter.device, parameter.dtype) for parameter in self._parameters()}
        self._alike = not self._shared and len(kinds) == 1 and next(iter(kinds))[0].type in ("cpu", "cuda")

    def clear(self) -> None:
        """Forget them, before those of the next step."""
        for parameter in self._parameters():
            parameter.grad = None

    def norm(self) -> Tensor:
        """The norm of all of them, as a plain tensor, the same on every process."""
        gradients = self._found()
        if self._alike and gradients:
            return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if not (sharded := [gradient for gradient in gradients if is_shared_out(gradient)]):
            return get_total_norm(gradients)
        parts = [get_total_norm(sharded).full_tensor()]  # type: ignore[attr-defined]
        if whole := [gradient for gradient in gradients if not is_shared_out(gradient)]:
            parts.append(get_total_norm(whole))
        return torch.linalg.vector_norm(torch.stack(parts))

    def clip(self, largest: float, norm: Tensor) -> None:
        """Scale them in place so that their norm, as :meth:`norm` gave it, is at most ``largest``."""
        if not (self._alike or self._shared):
            clip_grads_with_norm_(self._parameters(), largest, norm)
            return
        factor = (largest / (norm + 1e-6)).clamp(max=1.0)  # as clip_grads_with_norm_
        if self._shared:  # it cannot mix the two kinds
            for gradient in self._found():
                local_part(gradient).mul_(factor)
        elif gradients := self._found():
            torch._foreach_mul_(gradients, factor)

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for group in self._optimizer.param_groups for parameter in group["params"])

    def _found(self) -> list[Tensor]:
        return [gradient for parameter in self._parameters() if (gradient := parameter.grad) is not None]
