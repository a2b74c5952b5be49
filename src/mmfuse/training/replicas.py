"""DDP for models that may leave parameters out of a step, on one process or on all, without a search of the graph."""

import inspect
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from mmfuse.distributed import saved_buffers
from mmfuse.training.sharding import ENGINE

_SYNC = "forward_sync_buffers"
_ASKS = (  # names of torch that are no promise
    hasattr(torch._C, "_will_engine_execute_node")
    and hasattr(getattr(dist, "Reducer", None), "_autograd_hook")
    and hasattr(ENGINE, "queue_callback")
)
_TRAVELS = _SYNC if _SYNC in inspect.signature(nn.parallel.DistributedDataParallel).parameters else "broadcast_buffers"


class Replicas(nn.parallel.DistributedDataParallel):
    """Every process holds all weights, and gets the mean of the gradients; what no process used gets none.

    DDP's own way for what is left out, ``find_unused_parameters=True``, walks through the whole graph of each step.
    Autograd has walked through it by then: it is asked which gradients it is going to compute. A torch that cannot be
    asked goes DDP's way.

    The buckets in which gradients travel are laid out once, in the order of the parameters, and not by the first step:
    three and more processes add in an order that depends on the layout, and a run that goes on has to add as before.

    Args:
        objective: an ``Objective``: a call gives the loss first.
    """

    def __init__(self, objective: nn.Module) -> None:
        # A buffer that is in no state dict is a constant: it need not travel at every step.
        buffers: Any = {_TRAVELS: bool(saved_buffers(objective))}
        super().__init__(objective, gradient_as_bucket_view=True, find_unused_parameters=not _ASKS, **buffers)
        if not _ASKS:
            return  # the buckets are laid out in the order of the parameters, too
        self._trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        self._nodes = [get_gradient_edge(parameter).node for parameter in self._trained]
        self._lay_out()

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        loss, *others = super().forward(*inputs)
        if _ASKS and loss.requires_grad and self.require_backward_grad_sync:
            loss.register_hook(self._begin)
        return loss, *others

    def _lay_out(self) -> None:
        """A step in which nothing is used: DDP lays out its buckets in the order in which its gradients come."""
        loss = torch.zeros((), requires_grad=True)
        self.module.forward = lambda: (2 * loss,)
        try:
            self()[0].backward()
        finally:
            del self.module.forward
        self.zero_grad(set_to_none=True)

    def _begin(self, _: Tensor) -> None:
        """At the root of the graph: what will get no gradient is ready, or the other processes would wait for it."""
        ENGINE.queue_callback(self._leave_out)
        for place in reversed(range(len(self._nodes))):
            if not torch._C._will_engine_execute_node(self._nodes[place]):
                self.reducer._autograd_hook(place)

    def _leave_out(self) -> None:
        """When this process's gradients are there, and DDP has not yet put in those of others: who has used what."""
        missing = [place for place, parameter in enumerate(self._trained) if parameter.grad is None]
        used = torch.ones(len(self._trained), dtype=torch.int32)
        used[missing] = 0
        work = dist.all_reduce(used, group=self.process_group, async_op=True)
        if missing:  # else nothing of what is here can be unused everywhere
            ENGINE.queue_callback(partial(self._without, used, work, missing))

    def _without(self, used: Tensor, work: dist.Work, missing: list[int]) -> None:
        """When all gradients are there: as in one process, an optimizer passes over what has none."""
        work.wait()
        for place in missing:
            if not used[place]:
                self._trained[place].grad = None
