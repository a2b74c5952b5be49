"""Runs a model over batches without training it, and keeps what it answered."""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfuse._checks import require_kind
from mmfuse._files import device_of
from mmfuse.contracts import Batch, Target
from mmfuse.data.errors import DataError
from mmfuse.data.loading.loader import Loader, tell_dropped
from mmfuse.data.loading.report import ReadReport
from mmfuse.data.tables.table import Table
from mmfuse.distributed import connect, gather_rows, share_buffers, together, world
from mmfuse.losses import unknown_like
from mmfuse.missing import hide as hide_modalities
from mmfuse.model import MultimodalModel


@dataclass(frozen=True)
class Collected:
    """Predictions and targets of all samples, in their order, on the device of the model."""

    predictions: dict[str, Tensor]
    targets: dict[str, Target]
    weights: dict[str, Tensor]
    present: Tensor  # which samples have any modality
    sizes: Sequence[int]  # samples of each batch of this process

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Collected":
        """The same with every tensor changed."""
        return Collected(
            {name: change(part) for name, part in self.predictions.items()},
            {name: Target(change(part.values), change(part.known)) for name, part in self.targets.items()},
            {name: change(part) for name, part in self.weights.items()},
            change(self.present),
            self.sizes,
        )


def collect(
    model: MultimodalModel, batches: Iterable[Batch], *, hide: Collection[str] = (), truncate: bool = True
) -> Collected:
    """Everything that a model answers, in evaluation mode. Nothing leaves the device before the end.

    Several processes share the rows of a ``Loader``; each gets the answers of all, in the order of the table. Any
    other batches each process goes over as a whole. Warns of files that could not be read, in the name of who
    called mmfuse. Unless ``truncate``, what a loader has cut off is an error, at the first batch with such a value.
    """
    require_kind("The evaluation", "model", model, MultimodalModel, "a MultimodalModel, the first argument")
    require_batches(batches)
    require_kind("The evaluation", "hide", hide, (Sequence, Set, Mapping), "names of modalities. Give hide=['text']")
    if getattr(batches, "mixes", False):
        raise ValueError("Mixed labels cannot be scored. Expected rows as they are. Load them without mix=.")
    connect()
    with together():
        share_buffers(model)
        found = _run(model, batches if truncate else _whole(batches), hide)
        if isinstance(batches, Loader):
            rows = batches.rows()
            if world() > 1 or rows != sorted(rows):  # batches of similar length are not in the order of the table
                found = _of_all_processes(found, rows)
    tell_dropped(batches, stacklevel=_level_of_user())
    return found


def _level_of_user() -> int:
    """The stacklevel, for what :func:`collect` calls, of the code that called mmfuse: ``evaluate``, or ``fit``."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("mmfuse."):
        frame, level = frame.f_back, level + 1
    return level


def _whole(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, up to the first of which anything was cut off; that is a DataError."""
    report: ReadReport | None = getattr(getattr(batches, "dataset", None), "report", None)
    for batch in batches:
        if report is not None and report.truncated:
            name, (rows, steps) = next(iter(report.state_dict()["lost"].items()))
            more = f" {len(rows) - 1} more that were read by now are too long, too." if len(rows) > 1 else ""
            raise DataError(
                f"{report.places.place(rows[0], name)}: the value is too long, {steps[0]} of its steps (tokens, frames "
                f"or samples) would be cut off.{more} Expected values that the model sees as a whole. Shorten them, "
                "raise the limit of the transform (such as max_length), or pass predict(..., truncate=True): then "
                "they are cut and counted, as in training."
            )
        yield batch


def _run(model: MultimodalModel, batches: Iterable[Batch], hide: Collection[str]) -> Collected:
    """The answers of this process."""
    was_training, device = {part: part.training for part in model.modules()}, device_of(model)
    predictions: dict[str, list[Tensor]] = {}
    targets: list[Mapping[str, Target]] = []
    weights: dict[str, list[Tensor]] = {}
    present: list[Tensor] = []
    model.eval()
    try:
        for batch in batches:  # read outside of inference mode: a loader may keep tensors for training
            require_batch(batch)
            with torch.inference_mode():
                batch = hide_modalities(batch, hide).to(device, non_blocking=True)
                output = model(batch)
                present.append(output.fused.features.present)
                _append(predictions, output.predictions)
                targets.append(batch.targets)
                _append(weights, output.fused.weights)
    finally:
        for part, mode in was_training.items():
            part.training = mode
    if not present:
        raise ValueError("There is not one batch. Expected at least one. Is the table, or the list, empty?")
    sizes = [len(part) for part in present]
    return Collected(
        {name: torch.cat(parts) for name, parts in predictions.items()},
        _joined(targets, sizes),
        {name: torch.cat(parts) for name, parts in weights.items()},
        torch.cat(present),
        sizes,
    )


def _of_all_processes(own: Collected, rows: Sequence[int]) -> Collected:
    """The answers of all processes, in the order of their rows, without those to blank rows (-1)."""
    numbers = torch.cat(gather_rows(torch.tensor(rows)))
    order = numbers.argsort()
    order = order[numbers[order] >= 0]

    def whole(part: Tensor) -> Tensor:
        return torch.cat(gather_rows(part))[order].to(part.device)

    return own.mapped(whole)


def require_batches(batches: Any) -> None:
    """Raise TypeError for a table, or anything else that does not give one batch after another."""
    if isinstance(batches, Table | Mapping | str | bytes | Tensor | np.ndarray) or not isinstance(batches, Iterable):
        raise TypeError(
            f"The batches are a {type(batches).__name__}. Expected something that gives a Batch after another. "
            "Make them of a table: load_batches(table, model)."
        )
    if isinstance(batches, list | tuple):
        for batch in batches:
            require_batch(batch)


def require_batch(batch: Any) -> None:
    """Raise TypeError unless it is a batch, such as for what torch's own ``collate_fn`` makes."""
    if not isinstance(batch, Batch):
        raise TypeError(
            f"One of the batches is a {type(batch).__name__}. Expected a Batch. Return Batch(inputs, targets) from "
            "collate_fn, or use load_batches(table, model)."
        )


def _joined(targets: Sequence[Mapping[str, Target]], sizes: Sequence[int]) -> dict[str, Target]:
    """The labels of all batches by task; unknown for the samples of a batch that lacks those of a task."""
    joined = {}
    for name, like in {name: target for batch in targets for name, target in batch.items()}.items():
        parts = [batch.get(name) or unknown_like(like, size) for batch, size in zip(targets, sizes, strict=True)]
        joined[name] = Target(torch.cat([part.values for part in parts]), torch.cat([part.known for part in parts]))
    return joined


def _append(lists: dict[str, list[Any]], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        lists.setdefault(name, []).append(value)
