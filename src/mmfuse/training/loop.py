"""The training loop, in the order in which things happen."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmfuse._checks import require_positive, require_whole
from mmfuse._files import device_of
from mmfuse.contracts import Batch, Output
from mmfuse.data.loading.prefetch import prefetch
from mmfuse.model import MultimodalModel
from mmfuse.training.arguments import require_parts
from mmfuse.training.distributed import mean_over_processes, synchronising
from mmfuse.training.gradients import Gradients
from mmfuse.training.halving import Halving
from mmfuse.training.memory import explaining_out_of_memory
from mmfuse.training.nonfinite import NonFinite
from mmfuse.training.objective import Objective, Totals, totals_of, with_equal_targets
from mmfuse.training.precision import Precision
from mmfuse.training.signals import StopSignals
from mmfuse.training.unfreezing import set_training

# Edits the gradient of a step in place; sees what the model made of each of its batches, detached.
Balance = Callable[[MultimodalModel, Sequence[Output], Sequence[Batch]], None]


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
    objective: nn.Module | None = None,
    nonfinite: NonFinite | None = None,
    halving: Halving | None = None,
    signals: StopSignals | None = None,
    first_step: int = 1,
) -> Iterator[dict[str, Tensor]]:
    """Train on each batch once; yield the detached losses of each optimizer step, over all processes.

    A loss or gradient that is not finite never changes a weight; looking costs one synchronisation a step.

    Args:
        model: on its device already; batches are moved there.
        batches: of the training data; of this process, where there are several.
        weigh: losses of the tasks -> one loss.
        optimizer: over the parameters of model and weighting.
        balance: rules that edit the whole gradient of a step, before it is clipped.
        accumulate: batches in one optimizer step; the last step of an epoch takes what is left.
        clip: largest norm of all gradients together.
        precision: float32 if None.
        schedule: stepped after the optimizer.
        objective: :class:`Objective` of model and weighting, as :func:`parallel` wraps it; their own if None.
        nonfinite: what becomes of a step that is not finite: ``NonFiniteError`` if None.
        halving: what becomes of one that runs out of memory: ``OutOfMemoryError`` if None.
        signals: its ``stop`` is set when some process has been asked to stop.
        first_step: number of the first step, for messages.
    """
    require_parts(batches, dict(locals()))
    require_whole("train_epoch", accumulate=accumulate, first_step=first_step)
    require_positive("train_epoch", accumulate=accumulate, clip=1.0 if clip is None else clip)
    precision = precision or Precision("float32", device_of(model))
    objective = objective or Objective(model, weigh, keep_output=bool(balance))
    gradients = Gradients(optimizer)
    nonfinite, halving = nonfinite or NonFinite(), halving or Halving()
    nonfinite.begin(model, batches, weigh=weigh, accumulate=accumulate, first_step=first_step)
    set_training(model)
    backward = partial(_backward, objective, precision)

    def undo() -> None:
        gradients.clear()
        nonfinite.undo()

    for step, (window, totals) in enumerate(_steps(batches, accumulate, model, signals), start=first_step):
        gradients.clear()
        with explaining_out_of_memory(step, model, optimizer, partial(halving.cut, window), precision):
            losses, outputs = halving.attempt(step, backward, window, totals, undo)
            precision.scaler.unscale_(optimizer)
            too_large = bool(balance) and precision.scaler.is_enabled() and not gradients.norm().isfinite()
            for rule in () if too_large else balance:
                rule(model, outputs, halving.cut(window))
            norm = gradients.norm()
            if nonfinite.may_step(losses, norm, precision, edited=bool(balance) and not too_large):
                if clip is not None and nonfinite.norm > 0.99 * clip:  # below, the factor is exactly 1
                    gradients.clip(clip, norm)
                precision.scaler.step(optimizer)
                precision.scaler.update()
                if schedule is not None and nonfinite.moved:
                    schedule.step()
            else:
                nonfinite.meet(step, model, window, losses, precision)
        yield losses


def _backward(
    objective: nn.Module, precision: Precision, window: Sequence[Batch], totals: Totals
) -> tuple[dict[str, Tensor], list[Output]]:
    """The gradient of some batches as if they were one; returns the loss of each task over all processes."""
    losses: dict[str, Tensor] = {}
    outputs: list[Output] = []  # none, unless the objective keeps them
    for number, batch in enumerate(window, start=1):
        with synchronising(objective, number == len(window)):
            with precision.autocast():
                total, parts, output = objective(batch, totals)
            precision.scaler.scale(total).backward()
        for name, loss in parts.items():
            losses[name] = losses[name] + loss if name in losses else loss
        outputs += [] if output is None else [output]
    return mean_over_processes(losses) if totals.processes > 1 else losses, outputs


def _steps(
    batches: Iterable[Batch], size: int, model: MultimodalModel, signals: StopSignals | None
) -> Iterator[tuple[list[Batch], Totals]]:
    """The batches of each step, on the device of the model, with what the step holds over all processes.

    Labels are counted before a batch is moved, because to count them on a GPU would be to wait for it.
    """
    counted: deque[Totals] = deque()
    tasks = list(model.tasks)

    def on_cpu() -> Iterator[Batch]:
        iterator = iter(batches)
        while window := list(itertools.islice(iterator, size)):
            counted.append(totals_of(window, tasks, signals))
            yield from with_equal_targets(window, counted[-1], model.tasks)

    moved = prefetch(on_cpu(), device_of(model))
    for first in moved:
        totals = counted.popleft()
        yield [first, *itertools.islice(moved, totals.pieces - 1)], totals
