"""Which samples of a batch make what is not finite: each is tried alone, so that no innocent one is named."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from mmfuse._files import device_of
from mmfuse.contracts import Batch
from mmfuse.losses import task_losses
from mmfuse.model import MultimodalModel
from mmfuse.training.objective import samples_of
from mmfuse.training.precision import Precision


def names_of_samples(batches: Any, first: int, window: Sequence[Batch]) -> list[list[str]]:
    """What the samples of some batches are called: file and line, if a ``Loader`` made them, else by their numbers.

    Args:
        batches: what they come from.
        first: how many batches of this pass came before them.
        window: the batches.
    """
    source = getattr(batches, "batches", batches)  # of a Meter
    sizes = list(map(samples_of, window))
    if not hasattr(source, "rows_of"):
        return [[f"sample {i} of batch {k}" for i in range(size)] for k, size in enumerate(sizes, first)]
    place, mixed = source.dataset.place, " (or what was mixed into it)" if source.mixes else ""
    names = [[f"{place(row)}{mixed}" for row in rows] for rows in source.rows_of(first, len(window))]
    # A process that has no sample left in an epoch gets a blank one, which is no row.
    return [named + ["a blank sample"] * (size - len(named)) for named, size in zip(names, sizes, strict=True)]


def nonfinite_given(batch: Batch) -> dict[str, list[int]]:
    """The inputs and labels that are not finite where they are real, in words, each with the numbers of its samples."""
    given = {f"the input {name!r}": x.zeroed().values for name, x in batch.inputs.items()}
    for name, target in batch.targets.items():
        known = target.known.reshape(-1, *(1,) * (target.values.dim() - 1))
        given[f"the label of {name!r}"] = target.values.masked_fill(~known, 0)
    bad = {place: ~values.reshape(len(values), -1).isfinite().all(dim=1) for place, values in given.items()}
    return {place: rows.nonzero().flatten().tolist() for place, rows in bad.items() if rows.any()}


def samples_at_fault(model: MultimodalModel, batch: Batch, precision: Precision, *, gradient: bool) -> list[int]:
    """The numbers of the samples that give something not finite when each is alone in a batch.

    Batch norm takes its running statistics for that. Beside other processes only predictions are looked at, because a
    loss may be one of all processes; a sharded model, which runs on all of them at once, cannot be asked.

    Args:
        model: as it was in the step.
        batch: on its device.
        precision: that of the step.
        gradient: look at the gradients of the parameters too.
    """
    if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
        return []
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    size = samples_of(batch)
    with undisturbed(model), torch.set_grad_enabled(gradient and alone):
        for part in model.modules():
            part.training = part.training and not isinstance(part, _BatchNorm)
        singles = (_only(batch, i) for i in range(size))
        return [i for i, one in enumerate(singles) if not _is_finite(model, one, precision, losses_too=alone)]


def _only(batch: Batch, sample: int) -> Batch:
    return pytree.tree_map_only(Tensor, lambda x: x[sample : sample + 1], batch)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Try something out: mode and buffers of a model, and the random generators, are put back."""
    device = device_of(model)
    modes = {part: part.training for part in model.modules()}
    buffers = [
        (buffer, buffer.clone())
        for part in model.modules()
        if isinstance(part, _BatchNorm)
        for buffer in part.buffers()
    ]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _is_finite(model: MultimodalModel, batch: Batch, precision: Precision, *, losses_too: bool) -> bool:
    """Whether predictions are, and losses if wanted, and gradients if they are recorded."""
    with precision.autocast():
        output = model(batch)
        found = list(output.predictions.values())
        losses = task_losses(model.tasks, output, batch.targets) if losses_too else {}
        found += [*losses.values(), *output.fused.penalties.values()]
    if not all(bool(x.isfinite().all()) for x in found):
        return False
    total = sum([*losses.values(), *output.fused.penalties.values()])
    if not (isinstance(total, Tensor) and total.requires_grad):
        return True
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Not backward(): the gradients of the step stay as they are, and no hook of DDP sees these.
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    return all(bool(x.isfinite().all()) for x in gradients if x is not None)
