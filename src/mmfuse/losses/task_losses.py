"""One loss for each task, over the samples that carry its label."""

from collections.abc import Collection, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmfuse._checks import require_known_names, require_shape
from mmfuse.contracts import Batch, Output, Target
from mmfuse.layers.masking import wide


def task_losses(
    tasks: Mapping[str, nn.Module] | nn.ModuleDict,
    output: Output,
    targets: Mapping[str, Target],
    counts: Mapping[str, int | float] | None = None,
    *,
    complete: Collection[str] = (),
) -> dict[str, Tensor]:
    """The mean loss of each task over the samples whose label is known; exactly 0 where none is.

    They stand in the order of the tasks, on every process: batches may hold their targets in any.

    Args:
        tasks: the tasks of the model.
        output: what the model made of the batch.
        targets: labels by task. A task without targets gets no loss.
        counts: what to divide each task's sum by, instead of its known samples in this batch; a task of count 0 gets
            no loss. Sums over one common count are how a batch is cut into pieces without changing its gradient.
        complete: tasks whose labels are all known: nothing has to be masked, to the same result.
    """
    require_known_names("Batch.targets", targets, tasks, "task")
    losses = {}
    for name in tasks:
        if name not in targets or (counts is not None and not counts.get(name, 0)):
            continue
        target = targets[name]
        prediction = wide(output.predictions[name])
        if name in complete:
            each = sample_losses(name, tasks[name], prediction, target.values)
        else:
            each = _masked(name, tasks[name], prediction, target)
        count = target.known.sum().clamp_min(1) if counts is None else counts[name]
        losses[name] = each.sum() / count
    return losses


def known_counts(batches: Iterable[Batch]) -> dict[str, int]:
    """How many samples of some batches carry each task's label. Synchronises: call it before they leave the CPU."""
    counts: dict[str, int] = {}
    for batch in batches:
        for name, target in batch.targets.items():
            counts[name] = counts.get(name, 0) + int(target.known.count_nonzero())
    return counts


def unknown_like(target: Target, size: int) -> Target:
    """Labels of the same kind for so many samples, none of them known."""
    return Target(target.values.new_zeros(size, *target.values.shape[1:]), target.known.new_zeros(size))


def sample_losses(name: str, task: nn.Module, prediction: Tensor, values: Tensor) -> Float[Tensor, " batch"]:
    """The loss of each sample; labels of another shape would be spread over the whole batch without a word."""
    each: Tensor = task.loss(prediction, values)  # type: ignore[operator]
    if each.shape != values.shape[:1]:
        mend = f"Its labels have shape {tuple(values.shape)}: give each sample one of the shape of task.blank()."
        require_shape(f"The loss of the task {name!r}", each, {"batch": len(values)}, mend)
    return each


def _masked(name: str, task: nn.Module, prediction: Tensor, target: Target) -> Tensor:
    """The loss of each sample, 0 where the label is unknown."""
    known = target.known.reshape(-1, *(1,) * (target.values.dim() - 1))
    # What stands under an unknown label may be anything, NaN included: zeros take its place before it is used.
    values = torch.where(known, target.values, torch.zeros_like(target.values))
    return torch.where(target.known, sample_losses(name, task, prediction, values), 0.0)
