"""Losses and metrics of a model on some batches, task by task."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mmfuse._checks import require_known_names
from mmfuse.contracts import Batch, Target
from mmfuse.evaluation.collect import collect
from mmfuse.evaluation.finite import finite_answers, places_of, require_finite
from mmfuse.layers.masking import wide
from mmfuse.losses import sample_losses
from mmfuse.model import MultimodalModel


@dataclass(frozen=True)
class TaskReport:
    """One task, over the samples whose label is known."""

    loss: float  # mean
    metrics: dict[str, float]
    text: str  # scikit-learn's report
    decoded: np.ndarray  # answers, in the order of the samples
    labels: np.ndarray


@dataclass(frozen=True)
class Report:
    """What :func:`evaluate` found. Print it, or take its ``numbers``."""

    samples: int
    without_any_modality: int  # samples that had to be answered from nothing
    tasks: dict[str, TaskReport]
    weights: dict[str, float]  # mean share of each modality, where the fusion reports one

    @property
    def numbers(self) -> dict[str, float]:
        """Everything by name: ``result/accuracy``, ``result/loss``, and ``loss``, the sum over the tasks."""
        numbers = {"loss": sum(task.loss for task in self.tasks.values())}
        for name, task in self.tasks.items():
            numbers |= {f"{name}/loss": task.loss, **{f"{name}/{key}": value for key, value in task.metrics.items()}}
        return numbers

    def __str__(self) -> str:
        nothing = f", {self.without_any_modality} of them without any modality" if self.without_any_modality else ""
        parts = [f"{self.samples} samples{nothing}"]
        if self.weights:
            parts.append("mean weights: " + ", ".join(f"{name} {share:.3f}" for name, share in self.weights.items()))
        for name, task in self.tasks.items():
            numbers = ", ".join(f"{key} {value:.4f}" for key, value in task.metrics.items())
            parts.append(f"{name}: {len(task.labels)} known labels, loss {task.loss:.4f}, {numbers}\n{task.text}")
        return "\n\n".join(parts)


def evaluate(model: MultimodalModel, batches: Iterable[Batch], *, hide: Collection[str] = ()) -> Report:
    """Losses and scikit-learn's metrics of every task that has a known label, over all samples at once.

    The model answers in evaluation mode, on the device where it is, and is left as it was found. Under ``torchrun``
    call it on every process: they share the rows, and each gets the report of all.

    Args:
        model: the model.
        batches: with labels. A sample whose label is unknown counts for nothing in that task. Several processes share
            those of ``load_batches`` and ``load_shards``; others, such as a list, each goes over as a whole.
        hide: modalities that are made absent first.

    Raises:
        ValueError: there is no sample, or no known label at all; or an answer or a loss is not finite: of which
            samples is said, by file and line where ``load_batches`` read them.
    """
    found = collect(model, batches, hide=hide)
    require_known_names("Batch.targets", found.targets, model.tasks, "task")
    places = places_of(batches, found.sizes)
    tasks = {
        name: _report(name, model.tasks[name], found.predictions[name], target, places)
        for name, target in found.targets.items()
        if target.known.any()
    }
    if not tasks:
        raise ValueError(
            f"evaluate found no known label in {len(found.present)} samples. Expected labels for one of "
            f"{list(model.tasks)}. Give a table with a column of that name, or use predict."
        )
    return Report(
        samples=len(found.present),
        without_any_modality=int((~found.present).sum()),
        tasks=tasks,
        weights={name: float(weight[found.present].mean()) for name, weight in found.weights.items()},
    )


def _report(name: str, task: Any, prediction: Tensor, target: Target, places: Callable[[int], str]) -> TaskReport:
    prediction, values = wide(prediction[target.known]), target.values[target.known]
    known = target.known.nonzero().flatten().tolist()
    decoded = finite_answers("evaluate", name, task, prediction, lambda i: places(known[i]))
    losses = sample_losses(name, task, prediction, values).double()
    require_finite("evaluate", f"losses of the task {name!r}", losses, lambda i: places(known[i]))
    loss, labels = float(losses.mean()), values.cpu().numpy()
    return TaskReport(loss, task.metrics(decoded, labels), task.report(decoded, labels), decoded, labels)
