"""FSDP2: the processes share the weights, and each block of an encoder is put together when it runs."""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmfuse._checks import require_names
from mmfuse._files import device_of
from mmfuse.contracts import Batch
from mmfuse.distributed import saved_buffers, share_buffers, world
from mmfuse.training.precision import Precision

UNIT_BYTES = 10 * 2**20  # what is sent at once is at least so large: small messages cost more than they save


def shard(objective: nn.Module, precision: Precision, unit_bytes: int = UNIT_BYTES) -> nn.Module:
    """Replace the parameters of an objective's model, in place, by one shard for each process.

    The blocks of the encoders are sharded in units of ``unit_bytes`` or more, all else of the model in one. Numbers
    that stand alone, and the parameters of the weighting, stay whole; their gradients are averaged. All processes take
    the weights of rank 0, and before each pass in training its saved buffers, such as the statistics of BatchNorm.
    """
    if precision.name == "fp16":
        raise ValueError("FSDP2 does not train in fp16 here. Expected bf16 or float32. Pass precision='bf16'.")
    model: Any = objective.model
    replicated = list(objective.weigh.parameters())  # type: ignore[union-attr]
    for parameter in replicated:
        dist.broadcast(parameter.detach(), src=0)
    if not is_sharded(model):  # by an earlier run
        replicated += _share_out(model, precision, unit_bytes)
    for parameter in replicated:
        trained = parameter.requires_grad
        parameter.requires_grad_().register_hook(_mean)  # torch has no hooks for what is frozen, as it may be for now
        parameter.requires_grad_(trained)
    return objective


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of a model are shared out among the processes."""
    return hasattr(type(model), "set_requires_gradient_sync")  # of a module itself this would take long


def _share_out(model: Any, precision: Precision, unit_bytes: int) -> list[nn.Parameter]:
    """Shard the model of rank 0; returns the parameters that stay whole on every process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    for parameter in model.parameters():
        dist.broadcast(parameter.detach(), src=0)
    share_buffers(model)
    mesh = init_device_mesh(device_of(model).type, (world(),))
    # Only the blocks are cast: at the root, labels and waveforms would be too. Autocast does it there.
    bf16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = bf16 if precision.name == "bf16" else MixedPrecisionPolicy()
    for unit in units_of(model.encoders, unit_bytes):
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    alone = [parameter for parameter in model.parameters() if not parameter.dim()]  # cannot be cut
    fully_shard(model, mesh=mesh, ignored_params=set(alone))
    # It warns of changes in place to what a module gives; nothing here makes any.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    model.register_forward_pre_hook(partial(_prepare, saved_buffers(model)), prepend=True)
    return alone


def units_of(module: nn.Module, unit_bytes: int) -> list[list[nn.Module]]:
    """The repeated blocks of a module, neighbours together until they hold ``unit_bytes``; none of a small module."""
    units: list[list[nn.Module]] = []
    for blocks in _rows_of_blocks(module):
        row: list[list[nn.Module]] = [[]]
        for block in blocks:
            row[-1].append(block)
            if sum(map(_bytes, row[-1])) >= unit_bytes:
                row.append([])
        rest = row.pop()
        if row:
            row[-1] += rest
        units += row
    return units


def _rows_of_blocks(module: nn.Module) -> Iterator[list[nn.Module]]:
    """The outermost lists of two or more modules of one kind that have parts of their own."""
    for child in module.children():
        parts = list(child.children())
        alike = len(parts) > 1 and len({type(part) for part in parts}) == 1 and any(parts[0].children())
        if isinstance(child, (nn.ModuleList, nn.Sequential)) and alike:
            yield parts
        else:
            yield from _rows_of_blocks(child)


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def _mean(gradient: Tensor) -> Tensor:
    total = gradient.clone()
    dist.all_reduce(total)
    return total / world()


def _prepare(buffers: list[str], model: Any, args: tuple[Batch]) -> None:
    """Before each pass in training: the same modules run on every process, with the same statistics."""
    if model.training:
        mend = "A process that skips an encoder would mix up the weights of others: give an Input with present False."
        require_names("FSDP2: the batch", args[0].inputs, model.encoders, mend)
        share_buffers(model, buffers)
