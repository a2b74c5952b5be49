"""One step on several processes: the objective as DDP or FSDP2 runs it, its gradients and their norm."""

import zlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmfuse._checks import require_choice
from mmfuse.contracts import Batch
from mmfuse.data.loading.loader import Loader
from mmfuse.distributed import gather_rows, gather_texts, world
from mmfuse.training.precision import Precision
from mmfuse.training.replicas import Replicas
from mmfuse.training.sharding import is_sharded, shard

STRATEGIES = ("auto", "ddp", "fsdp")


def parallel(objective: nn.Module, strategy: str, precision: Precision) -> nn.Module:
    """The objective so that its gradients are the mean over all processes; itself where there is one.

    Call it when the model is on its device and before the optimizer is made: FSDP2 puts shards in the place of the
    parameters. All processes take the weights of rank 0. Under DDP frozen parameters do not travel; when others are
    frozen than at the call, call it again.

    Args:
        objective: an ``Objective``: its model and its weighting.
        strategy: "ddp": every process holds all weights. "fsdp": the processes share them, block by block of the
            encoders, for models that are too large for one. "auto": "ddp" where there are several processes.
        precision: of the forward pass; with "bf16" FSDP2 sends the weights of the blocks in bf16.
    """
    require_choice("parallel", "strategy", strategy, STRATEGIES)
    sharded = is_sharded(objective.model)  # type: ignore[arg-type]
    if strategy == "auto" and world() == 1 and not sharded:
        return objective
    if sharded and strategy != "fsdp":
        raise ValueError(
            f"strategy={strategy!r} was asked for a model whose weights an earlier run has shared out. Expected "
            "'fsdp' again. Pass strategy='fsdp', or save the model and load it."
        )
    if not dist.is_initialized():
        raise ValueError(
            f"strategy={strategy!r} was asked for in a process on its own. Expected processes that have met. Start the "
            "script with torchrun --nproc-per-node=2, or leave strategy='auto'."
        )
    if strategy == "fsdp":
        return shard(objective, precision)
    return Replicas(objective)


def synchronising(objective: nn.Module, last: bool) -> AbstractContextManager:
    """The context of a forward and backward pass: only the last piece of a step sends gradients."""
    if isinstance(objective, nn.parallel.DistributedDataParallel):
        return nullcontext() if last else objective.no_sync()
    if is_sharded(objective.model):  # type: ignore[arg-type]
        objective.model.set_requires_gradient_sync(last)  # type: ignore[union-attr, operator]
    return nullcontext()


def mean_over_processes(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses of a step over all processes, each of which holds its part times their number; on the device."""
    if world() == 1 or not losses:
        return losses
    total = torch.stack(list(losses.values()))
    dist.all_reduce(total)
    return dict(zip(losses, (total / world()).unbind(), strict=True))


def require_own_batches(batches: Any) -> None:
    """Raise ValueError on every process if they would train on the same batches, or on unequal numbers of them.

    A ``Loader`` is cut among the processes. Of anything else, such as a list, each process must bring its own part.
    """
    if world() == 1 or isinstance(batches, Loader):
        return
    counts = [int(count) for count in gather_rows(torch.tensor([len(batches)]))]
    mend = "Use load_batches or load_shards, which cut the rows among the processes."
    if len(set(counts)) > 1:
        raise ValueError(f"The processes have {counts} batches to train on. Expected equal numbers. {mend}")
    if iter(batches) is not batches and len(set(gather_texts(_mark(next(iter(batches)))))) == 1:
        raise ValueError(
            f"All {world()} processes would train on the same batches: a {type(batches).__name__} is not cut among "
            f"them. Expected other batches on each process. {mend}"
        )


def _mark(batch: Batch) -> str:
    """A checksum of everything in a batch."""
    tensors = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]
    return str(
        [zlib.crc32(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()) for tensor in tensors]
    )
