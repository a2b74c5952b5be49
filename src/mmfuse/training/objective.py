"""What one piece of a step adds to the loss: the part of a training step that DDP wraps."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmfuse.contracts import Batch, Output, Target
from mmfuse.distributed import agree
from mmfuse.evaluation.collect import require_batch
from mmfuse.losses import known_counts, task_losses, unknown_like
from mmfuse.model import MultimodalModel
from mmfuse.training.signals import StopSignals


@dataclass(frozen=True)
class Totals:
    """What a step holds over all of its pieces: the micro-batches of every process."""

    known: Mapping[str, float]  # samples by task whose label is known
    samples: float
    pieces: int  # micro-batches of one process
    processes: int = 1
    complete: Collection[str] = ()  # tasks of which this process knows every label

    @property
    def counts(self) -> dict[str, float]:
        """What a piece divides its sum of losses by, so that the mean over the pieces is the mean over the labels."""
        return {name: known / (self.pieces * self.processes) for name, known in self.known.items()}


class Objective(nn.Module):
    r"""A batch -> its part of a step's loss, the losses by task, and the output of the model, without gradients.

    For task :math:`t` with :math:`N_t` known labels in all :math:`P` pieces of :math:`W` processes, a piece gives

    .. math:: \frac1P\, w\Big(\big\{\tfrac{PW}{N_t} \textstyle\sum_{i \in \text{piece}} \ell_{ti}\big\}_t\Big)
              + \frac{W n_{\text{piece}}}{n}\, \text{penalties}

    A weighting :math:`w` is affine, so the sum over the pieces and the mean over the processes, which is what DDP
    forms, is :math:`w` of the means over all labels: as if all were one batch.

    Args:
        model: Batch -> Output.
        weigh: losses of the tasks -> one loss.
        forward: what computes the model instead of calling it: the same, compiled.
        keep_output: give the output too, for rules that look at it.
    """

    def __init__(
        self,
        model: MultimodalModel,
        weigh: nn.Module,
        *,
        forward: Callable[[Batch], Output] | None = None,
        keep_output: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.weigh = weigh
        self._forward = [forward or model]  # in a list: not a second child
        self.keep_output = keep_output

    def forward(self, batch: Batch, totals: Totals) -> tuple[Tensor, dict[str, Tensor], Output | None]:
        output = self._forward[0](batch)
        scaled = task_losses(self.model.tasks, output, batch.targets, totals.counts, complete=totals.complete)
        # Without any label there is nothing to learn, but every process runs the same backward.
        total = _share(self.weigh(scaled), totals.pieces) if scaled else 0.0 * output.fused.features.pooled.sum()
        if output.fused.penalties:
            share = _counted(batch) * totals.processes / max(1.0, totals.samples)
            total = total + sum(output.fused.penalties.values()) * share
        losses = {name: _share(loss.detach(), totals.pieces) for name, loss in scaled.items()}
        return total, losses, _detached(output) if self.keep_output else None


def totals_of(window: Sequence[Batch], tasks: Sequence[str], signals: StopSignals | None = None) -> Totals:
    """What the pieces of a step hold together over all processes, which tell each other of signals by the way.

    Reads labels: call it while they are on the CPU.
    """
    rows, own = sum(map(samples_of, window)), known_counts(window)
    numbers = [*(own.get(name, 0) for name in tasks), sum(int(_counted(batch)) for batch in window), 1]
    received = [] if signals is None else signals.counts()
    total = agree([*numbers, *received])
    if signals is not None:
        signals.hear(total[len(numbers) :])
    *known, samples, processes = total[: len(numbers)]
    complete = [name for name, count in own.items() if count == rows]
    return Totals(dict(zip(tasks, known, strict=True)), samples, len(window), int(processes), complete)


def with_equal_targets(
    window: Sequence[Batch], totals: Totals, tasks: Mapping[str, nn.Module] | nn.ModuleDict
) -> list[Batch]:
    """The same batches, with unknown labels for a task that only others have: a weighting counts them as pieces."""
    wanted = [name for name, known in totals.known.items() if known]
    if all(batch.targets.keys() >= set(wanted) for batch in window):
        return list(window)
    like = {name: target for batch in window for name, target in batch.targets.items()}
    completed = []
    for batch in window:
        lacking = {name: _unknown(like.get(name), tasks[name], batch) for name in wanted if name not in batch.targets}
        completed.append(replace(batch, targets={**batch.targets, **lacking}) if lacking else batch)
    return completed


def samples_of(batch: Batch) -> int:
    """How many samples a batch has; TypeError for what is none."""
    require_batch(batch)
    return len(next(iter(batch.inputs.values())).present)


def _counted(batch: Batch) -> int | Tensor:
    """How many samples a batch has. A blank row, which is alone in its batch, is none; to see that is not to wait."""
    if (size := samples_of(batch)) > 1:
        return size
    real = [*(given.present for given in batch.inputs.values()), *(target.known for target in batch.targets.values())]
    return torch.stack(real).any()


def _share(loss: Tensor, pieces: int) -> Tensor:
    return loss / pieces if pieces > 1 else loss


def _unknown(like: Target | None, task: nn.Module, batch: Batch) -> Target:
    if like is None:
        blank: Tensor = task.blank()  # type: ignore[operator]
        like = Target(blank[None], torch.zeros(1, dtype=torch.bool))
    return unknown_like(like, samples_of(batch))


def _detached(output: Output) -> Output:
    return pytree.tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, output)
