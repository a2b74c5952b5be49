"""The training loop, in the order in which things happen."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmfuse._checks import require_positive
from mmfuse._files import device_of
from mmfuse.contracts import Batch, Output
from mmfuse.losses import known_counts, task_losses, unknown_like
from mmfuse.model import MultimodalModel
from mmfuse.training.nonfinite import NonFiniteError, explain_nonfinite
from mmfuse.training.precision import Precision

Balance = Callable[[MultimodalModel, Output, Batch], None]  # edits gradients in place


def train_epoch(  # noqa: PLR0913  one keyword for each thing that a step does; an object would only hide them
    model: MultimodalModel,
    batches: Iterable[Batch],
    *,
    weigh: nn.Module,
    optimizer: Optimizer,
    balance: Sequence[Balance] = (),
    accumulate: int = 1,
    clip: float | None = None,
    precision: Precision | None = None,
    schedule: LRScheduler | None = None,
    first_step: int = 1,
) -> Iterator[dict[str, Tensor]]:
    """Train on each batch once; yield the detached losses of each optimizer step.

    Stops with :class:`NonFiniteError` before a loss or gradient that is not finite changes a weight; looking costs one
    synchronisation a step.

    Args:
        model: on its device already; batches are moved there.
        batches: of the training data.
        weigh: losses of the tasks -> one loss.
        optimizer: over the parameters of model and weighting.
        balance: rules that edit the gradients after ``backward``.
        accumulate: batches in one optimizer step; the last step of an epoch takes what is left.
        clip: largest norm of all gradients together.
        precision: float32 if None.
        schedule: stepped after the optimizer.
        first_step: number of the first step, for messages.
    """
    require_positive("train_epoch", accumulate=accumulate, clip=1.0 if clip is None else clip)
    precision = precision or Precision("float32", device_of(model))
    scaler = precision.scaler
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    model.train()
    for step, window in enumerate(_windows(batches, accumulate), start=first_step):
        optimizer.zero_grad(set_to_none=True)
        losses = _backward(model, _with_equal_targets(window), weigh, balance, precision)
        scaler.unscale_(optimizer)
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not _may_step(losses, norm, precision):
            raise NonFiniteError(explain_nonfinite(step, model, window, losses, precision))
        if clip is not None:
            clip_grads_with_norm_(parameters, clip, norm)
        scaler.step(optimizer)
        scaler.update()
        if schedule is not None:
            schedule.step()
        yield losses


def _backward(
    model: MultimodalModel,
    window: Sequence[Batch],
    weigh: nn.Module,
    balance: Sequence[Balance],
    precision: Precision,
) -> dict[str, Tensor]:
    """The gradient of some batches as if they were one; returns the loss of each task.

    Each task's loss is a sum over the window, divided once by the labels known in it. A weighting is affine: its mean
    over the pieces, each scaled up by their number, is its value for the whole.
    """
    pieces = len(window)
    counts = {name: count / pieces for name, count in known_counts(window).items()}
    samples = sum(map(_samples, window))
    losses: dict[str, Tensor] = {}
    for batch in window:
        batch = batch.to(device_of(model), non_blocking=True)
        with precision.autocast():
            output = model(batch)
            scaled = task_losses(model.tasks, output, batch.targets, counts)
            total = weigh(scaled) / pieces if scaled else 0.0 * output.fused.features.pooled.sum()
            total = total + sum(output.fused.penalties.values()) * (_samples(batch) / samples)
        precision.scaler.scale(total).backward()
        for name, loss in scaled.items():
            losses[name] = losses.get(name, 0.0) + loss.detach() / pieces
        for rule in balance:
            rule(model, output, batch)
    return losses


def _may_step(losses: dict[str, Tensor], norm: Tensor, precision: Precision) -> bool:
    """Whether all is finite. A scaler finds infinite gradients on its way to the right scale: it skips them itself."""
    numbers = [*losses.values()] if precision.scaler.is_enabled() else [*losses.values(), norm]
    return not numbers or bool(torch.stack([number.float() for number in numbers]).isfinite().all())


def _windows(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of ``size`` batches, the last one shorter where they do not come out even."""
    iterator = iter(batches)
    while window := list(itertools.islice(iterator, size)):
        yield window


def _with_equal_targets(window: Sequence[Batch]) -> list[Batch]:
    """The same batches, with unknown labels for a task that only others have: a weighting counts them as pieces."""
    tasks = {name: target for batch in window for name, target in batch.targets.items()}
    completed = []
    for batch in window:
        lacking = {name: unknown_like(x, _samples(batch)) for name, x in tasks.items() if name not in batch.targets}
        completed.append(replace(batch, targets={**batch.targets, **lacking}))
    return completed


def _samples(batch: Batch) -> int:
    return len(next(iter(batch.inputs.values())).present)
