"""Answers of a model as rows of a table."""

import csv
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfuse._checks import require_choice
from mmfuse.contracts import Batch
from mmfuse.data.loader import Loader
from mmfuse.evaluation.collect import collect, finite_answers
from mmfuse.model import MultimodalModel


def predict(model: MultimodalModel, batches: Iterable[Batch], *, hide: Collection[str] = ()) -> list[dict[str, Any]]:
    """One row of answers for each sample, in their order; labels are not needed.

    A task ``result`` with classes gives ``result_predicted`` (a name), ``result_probability`` and ``result_p(name)``
    for each class; a regression gives ``result_predicted`` (in the units of its labels). Where the fusion reports
    weights, ``weight(modality)`` is the share of each. Rows of a table keep their own cells in front.

    Args:
        model: answers in evaluation mode, on the device where it is.
        batches: from ``load_batches``, in the order of the table (``train=False``), or any batches.
        hide: modalities that are made absent first.
    """
    if isinstance(batches, Loader) and batches.shuffled:
        raise ValueError(
            "predict got batches in a random order. Expected the order of the table, so that answers meet their "
            "rows. Use load_batches(table, model) without train=True."
        )
    found = collect(model, batches, hide=hide)
    rows: list[dict[str, Any]] = [{} for _ in found.present]
    if isinstance(batches, Loader):
        rows = [dict(cells) for cells in batches.dataset.table.rows]
    for name, prediction in found.predictions.items():
        task: Any = model.tasks[name]
        for row, decoded in zip(rows, finite_answers("predict", task, prediction), strict=True):
            row.update({f"{name}_{key or 'predicted'}": value for key, value in task.answer(decoded).items()})
    for name, weight in found.weights.items():
        for row, share in zip(rows, weight.tolist(), strict=True):
            row[f"weight({name})"] = share
    return rows


def write_rows(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write rows to a ``.csv`` or ``.jsonl`` file."""
    path = Path(path)
    require_choice("write_rows", "the kind of file", path.suffix, (".csv", ".jsonl"))
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
