"""One step on several processes: the objective as DDP or FSDP2 runs it, its gradients and their norm."""

from collections.abc import Iterable
from contextlib import AbstractContextManager

from torch import Tensor, nn

from mmfuse.contracts import Batch
from mmfuse.distributed import agree, connect, is_main, rank, together, world
from mmfuse.training.precision import Precision

STRATEGIES = ("auto", "ddp", "fsdp")


def parallel(objective: nn.Module, strategy: str, precision: Precision) -> nn.Module:
    """The objective so that its gradients are the mean over all processes; itself where there is one.

    Call it when the model is on its device and before the optimizer is made: FSDP2 puts shards in the place of the
    parameters. All processes take the weights of rank 0. Frozen parameters do not travel under DDP.

    Args:
        objective: an ``Objective``: its model and its weighting.
        strategy: "ddp": every process holds all weights. "fsdp": the processes share them, block by block of the
            encoders, for models that are too large for one. "auto": "ddp" where there are several processes.
        precision: of the forward pass; "bf16" makes FSDP2 send the weights of the blocks as bf16.
    """
    raise NotImplementedError


def synchronising(objective: nn.Module, last: bool) -> AbstractContextManager:
    """The context of a forward and backward pass: only the last piece of a step sends gradients."""
    raise NotImplementedError


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, as a plain tensor on every process, whether they are sharded or not."""
    raise NotImplementedError


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float, norm: Tensor) -> None:
    """Scale the gradients in place so that their norm, as :func:`gradient_norm` gives it, is at most ``largest``."""
    raise NotImplementedError


def mean_over_processes(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses of a step, of which each process holds its part times their number, as those of all; on the device."""
    raise NotImplementedError


def require_own_batches(batches: Iterable[Batch]) -> None:
    """Raise ValueError on every process if they would train on the same batches, or on unequal numbers of them."""
    raise NotImplementedError


__all__ = [
    "STRATEGIES",
    "agree",
    "clip_gradients",
    "connect",
    "gradient_norm",
    "is_main",
    "mean_over_processes",
    "parallel",
    "rank",
    "require_own_batches",
    "synchronising",
    "together",
    "world",
]
