"""Answers of a model as rows of a table."""

import csv
import json
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmfuse._checks import require_choice, require_switches
from mmfuse.contracts import Batch
from mmfuse.data.loading.loader import Loader
from mmfuse.distributed import gather_texts, world
from mmfuse.evaluation.collect import collect
from mmfuse.evaluation.finite import finite_answers, places_of
from mmfuse.model import MultimodalModel

_PLAIN = str | int | float | list | None  # cells that can be written down
_AT_ONCE = 64  # rows


def predict(
    model: MultimodalModel, batches: Iterable[Batch], *, hide: Collection[str] = (), truncate: bool = False
) -> list[dict[str, Any]]:
    """One row of answers for each sample, in their order; labels are not needed.

    A task ``result`` with classes gives ``result_predicted`` (a name), ``result_probability`` and ``result_p(name)``
    for each class; a regression gives ``result_predicted`` (in the units of its labels). Where the fusion reports
    weights, ``weight(modality)`` is the share of each. Rows of a table keep their own cells in front, samples of shards
    their ``key``, ``shard`` and texts, samples of any other dataset the number of their ``row``. Where a row was
    skipped because it cannot be read (``load_batches(..., on_error="skip")``), its answers are None. Under ``torchrun``
    call it on every process: they share the rows, and each gets the answers of all.

    Args:
        model: answers in evaluation mode, on the device where it is.
        batches: from ``load_batches`` or ``load_shards``, in their order (``train=False``), or any batches.
        hide: modalities that are made absent first.
        truncate: answer also to what was cut off because it is too long, as training does, with one warning.

    Raises:
        ValueError: an answer is not finite: of which samples is said, by file and line where they were read.
        DataError: a value is longer than its transform takes, such as a text of more than ``max_length`` tokens.
    """
    require_switches("predict", truncate=truncate)
    if isinstance(batches, Loader) and batches.shuffled:
        raise ValueError(
            "predict got batches in a random order. Expected the order of the table, so that answers meet their "
            "rows. Use load_batches(table, model) without train=True."
        )
    dataset: Any = batches.dataset if isinstance(batches, Loader) else None
    if hasattr(dataset, "named"):
        dataset.named = []
    found = collect(model, batches, hide=hide, truncate=truncate)
    rows = _cells(batches, len(found.present))
    answers: list[dict[str, Any]] = [{} for _ in rows]
    places = places_of(batches, found.sizes)
    for name, prediction in found.predictions.items():
        task: Any = model.tasks[name]
        for answer, decoded in zip(answers, finite_answers("predict", name, task, prediction, places), strict=True):
            answer.update({f"{name}_{key or 'predicted'}": value for key, value in task.answer(decoded).items()})
    for name, weight in found.weights.items():
        for answer, share in zip(answers, weight.tolist(), strict=True):
            answer[f"weight({name})"] = share
    for row in _skipped(batches):  # to answer where nothing could be read would be to answer no question
        answers[row] = dict.fromkeys(answers[row])
    return [cells | answer for cells, answer in zip(rows, answers, strict=True)]


def _cells(batches: Any, count: int) -> list[dict[str, Any]]:
    """What names each answer: key and shard, number of the row, or all cells of it that can be written down."""
    dataset: Any = batches.dataset if isinstance(batches, Loader) else None
    table = getattr(dataset, "table", None)
    if (named := getattr(dataset, "named", None)) is not None:
        dataset.named = None
        return _of_all_processes([dict(cells) for cells in named], batches.rows())
    if table is None:
        return [{} if dataset is None else {"row": row} for row in range(count)]
    rows: list[dict[str, Any]] = []
    for some in torch.arange(count).split(_AT_ONCE):  # all pictures of a table would fill the memory
        columns = [table.cells(some, name) for name in table.columns]
        named = (zip(table.columns, cells, strict=True) for cells in zip(*columns, strict=True))
        rows += ({name: cell for name, cell in row if isinstance(cell, _PLAIN)} for row in named)
    return rows


def _skipped(batches: Any) -> list[int]:
    """The rows that could not be read and count for nothing."""
    report = batches.dataset.report if isinstance(batches, Loader) else None
    return report.rows if report is not None and report.skips else []


def _of_all_processes(named: list[dict[str, Any]], rows: Sequence[int]) -> list[dict[str, Any]]:
    """What names the rows of all processes, in their order."""
    found = list(zip(rows, named, strict=False))  # after the named ones only blank rows come
    if world() > 1:
        found = [pair for text in gather_texts(json.dumps(found)) for pair in json.loads(text)]
    return [cells for _, cells in sorted(found, key=operator.itemgetter(0))]


def write_rows(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write rows to a ``.csv`` or ``.jsonl`` file. No rows are an error: nobody could read a table without columns."""
    path = Path(path)
    if not rows:
        raise ValueError("write_rows got no rows. Expected one or more. Is the table, or the answer, empty?")
    require_choice("write_rows", "the kind of file", path.suffix, (".csv", ".jsonl"))
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
