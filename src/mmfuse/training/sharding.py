"""FSDP2: the processes share the weights, and each block of an encoder is put together when it runs."""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mmfuse._checks import require_names
from mmfuse._files import device_of
from mmfuse.contracts import Batch
from mmfuse.distributed import agree, is_shared_out, saved_buffers, share_buffers, share_tensor, world
from mmfuse.training.precision import Precision

ENGINE: Any = torch.autograd.Variable._execution_engine
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
    weighting = list(objective.weigh.parameters())  # type: ignore[union-attr]
    for parameter in weighting:
        share_tensor(parameter)
    if not is_sharded(model):  # by an earlier run
        _share_out(model, precision, unit_bytes)
    alone = [parameter for parameter in model.parameters() if not is_shared_out(parameter)]
    objective.register_forward_hook(partial(_average_later, [*weighting, *alone]))
    return objective


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of a model are shared out among the processes."""
    return hasattr(type(model), "set_requires_gradient_sync")  # of a module itself this would take long


def _share_out(model: Any, precision: Precision, unit_bytes: int) -> None:
    """Shard the model of rank 0."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    for parameter in model.parameters():
        share_tensor(parameter)
    share_buffers(model)
    mesh = init_device_mesh(device_of(model).type, (world(),))
    # Only the blocks are cast: at the root, labels and waveforms would be too. Autocast does it there.
    bf16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = bf16 if precision.name == "bf16" else MixedPrecisionPolicy()
    for unit in units_of(model.encoders, unit_bytes):
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    alone = {parameter for parameter in model.parameters() if not parameter.dim()}  # cannot be cut
    fully_shard(model, mesh=mesh, ignored_params=alone)
    # It warns of changes in place to what a module gives; nothing here makes any.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    model.register_forward_pre_hook(partial(_prepare, saved_buffers(model)), prepend=True)


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


def _average_later(parameters: list[nn.Parameter], _: nn.Module, __: Any, output: tuple[Any, ...]) -> None:
    """When the pass backward ends, average the gradients of what is whole on every process."""
    if output[0].requires_grad:
        output[0].register_hook(lambda _gradient: ENGINE.queue_callback(partial(_average, parameters)))


def _average(parameters: list[nn.Parameter]) -> None:
    """The same on every process, whichever of them used a parameter; what none has used keeps no gradient."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    used = agree([parameter.grad is not None for parameter in trained]) if trained else []
    for parameter, processes in zip(trained, used, strict=True):
        if processes:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad)
            parameter.grad /= world()


def _prepare(buffers: list[str], model: Any, args: tuple[Batch]) -> None:
    """Before each pass in training: the same modules run on every process, with the same statistics."""
    if model.training:
        mend = "A process that skips an encoder would mix up the weights of others: give an Input with present False."
        require_names("FSDP2: the batch", args[0].inputs, model.encoders, mend)
        share_buffers(model, buffers)
