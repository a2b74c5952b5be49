"""Runs a model over batches without training it, and keeps what it answered."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmfuse._files import device_of
from mmfuse.contracts import Batch, Target
from mmfuse.missing import hide as hide_modalities
from mmfuse.model import MultimodalModel


@dataclass(frozen=True)
class Collected:
    """Predictions and targets of all samples, in their order, on the device of the model."""

    predictions: dict[str, Tensor]
    targets: dict[str, Target]
    weights: dict[str, Tensor]
    present: Tensor  # which samples have any modality


def collect(model: MultimodalModel, batches: Iterable[Batch], *, hide: Collection[str] = ()) -> Collected:
    """Everything that a model answers, in evaluation mode. Nothing leaves the device before the end."""
    was_training, device = model.training, device_of(model)
    predictions: dict[str, list[Tensor]] = {}
    targets: dict[str, list[Target]] = {}
    weights: dict[str, list[Tensor]] = {}
    present: list[Tensor] = []
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                batch = hide_modalities(batch, hide).to(device, non_blocking=True)
                output = model(batch)
                present.append(output.fused.features.present)
                _append(predictions, output.predictions)
                _append(targets, batch.targets)
                _append(weights, output.fused.weights)
    finally:
        model.train(was_training)
    if not present:
        raise ValueError("There is not one batch. Expected at least one. Is the table, or the list, empty?")
    return Collected(
        {name: torch.cat(parts) for name, parts in predictions.items()},
        {
            name: Target(torch.cat([t.values for t in parts]), torch.cat([t.known for t in parts]))
            for name, parts in targets.items()
        },
        {name: torch.cat(parts) for name, parts in weights.items()},
        torch.cat(present),
    )


def _append(lists: dict[str, list[Any]], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        lists.setdefault(name, []).append(value)
