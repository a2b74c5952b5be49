"""The labels of a task in a table: how many are known, how they are spread, and which cannot be used."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmfuse.data.inspection.cells import distinct
from mmfuse.data.inspection.findings import KEPT, Finding, LabelSurvey, spread_of
from mmfuse.data.inspection.plan import Label
from mmfuse.data.tables.columns.values import column_of
from mmfuse.data.tables.table import Table

UNEVEN = 10  # the most frequent class has so many times the rows of the rarest


@dataclass(frozen=True)
class _Cells:
    """The different cells of a column, and which each row has (-1: none)."""

    cells: Sequence[Any]
    codes: Tensor

    def counts(self) -> list[int]:
        """How many rows have each cell."""
        return self.codes[self.codes >= 0].bincount(minlength=len(self.cells)).tolist()

    def rows(self, places: Sequence[int]) -> list[int]:
        """The rows with one of some cells."""
        return torch.isin(self.codes, torch.tensor(list(places), dtype=self.codes.dtype)).nonzero().flatten().tolist()


def survey_labels(table: Table, label: Label, train: LabelSurvey | None = None) -> tuple[LabelSurvey, list[Finding]]:
    """The labels of a table.

    Args:
        table: the rows.
        label: the task.
        train: the labels of the training table, where this is another one: it has to have all classes.
    """
    if label.name not in table.columns:
        survey = LabelSurvey(label.name, label.kind, 0, len(table))
        return survey, _few(table, survey) if train is None else []
    cells, codes, failed = _distinct(table, label.name)
    seen = _Cells(cells, codes)
    known = int((seen.codes >= 0).sum())
    classes, spread, wrong = _contents(label, seen, train)
    survey = LabelSurvey(label.name, label.kind, known, len(table) - known, classes, spread)
    findings = [_wrong(table, label, seen, wrong, against=train is not None)] if wrong else []
    findings += [_failed(table, label, failed)] if failed else []
    if train is None:
        findings += _few(table, survey)
    return survey, findings


def _contents(label: Label, seen: _Cells, train: LabelSurvey | None) -> tuple[dict[str, int], Any, dict[int, str]]:
    """Rows of each class, the spread of numbers, and why some of the cells are no labels."""
    wrong = _refused(label, seen.cells)
    if label.kind == "regression":
        numbers = [_as_number(cell) for cell in seen.cells]
        if label.task is None:
            wrong = {i: f"{seen.cells[i]!r:.60}" for i, number in enumerate(numbers) if not math.isfinite(number)}
        codes = seen.codes[seen.codes >= 0]
        return {}, spread_of(torch.tensor([*numbers], dtype=torch.float64)[codes].numpy()), wrong
    if label.kind == "other":
        return {}, None, wrong
    classes = _count_classes(label, seen)
    if label.task is None and train is not None:
        wrong = {
            i: f"{cell!r:.60}" for i, cell in enumerate(seen.cells) if set(_names(label, cell)) - set(train.classes)
        }
    return classes, None, wrong


def _refused(label: Label, cells: Sequence[Any]) -> dict[int, str]:
    """The cells that the task does not take."""
    if label.task is None:
        return {}
    wrong = {}
    for place, cell in enumerate(cells):
        try:
            label.task.encode(cell)
        except ValueError:
            wrong[place] = f"{cell!r:.60}"
    return wrong


def _count_classes(label: Label, seen: _Cells) -> dict[str, int]:
    classes: dict[str, int] = {}
    for cell, count in zip(seen.cells, seen.counts(), strict=True):
        for name in _names(label, cell):
            classes[name] = classes.get(name, 0) + count
    return dict(sorted(classes.items(), key=lambda item: (-item[1], item[0])))


def _names(label: Label, cell: Any) -> list[str]:
    """The names of the classes in a cell."""
    if label.kind != "multilabel":
        return [str(cell)]
    if isinstance(cell, Tensor) or type(cell).__module__ == "numpy":  # yes or no for each class
        names = getattr(label.task, "classes", None) or [str(place) for place in range(len(cell))]
        return [name for name, yes in zip(names, cell.tolist(), strict=False) if yes]
    inner = getattr(label.task, "task", label.task)
    parts = cell if isinstance(cell, list | tuple) else str(cell).split(getattr(inner, "separator", "|"))
    return [str(part).strip() for part in parts if str(part).strip()]


def _wrong(table: Table, label: Label, seen: _Cells, wrong: Mapping[int, str], *, against: bool) -> Finding:
    rows = seen.rows(list(wrong))
    shown = ", ".join(list(wrong.values())[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    if label.kind == "regression":
        kind, text = "no number", f"labels are no finite numbers: {shown}. Mend them, or empty the cells."
    elif against:
        kind = "unknown class"
        text = f"classes that training does not have: {shown}. Add rows of them there, or empty the cells."
    else:
        kind, text = "unknown class", f"labels that the task does not take: {shown}. Mend them, or empty the cells."
    return Finding(kind, table.name, text, label.name, [table.line(row) for row in rows[:KEPT]], len(rows))


def _failed(table: Table, label: Label, failed: Mapping[int, str]) -> Finding:
    rows = list(failed)[:KEPT]
    text = f"{len(failed)} labels cannot be read:"
    details, lines = [failed[row] for row in rows], [table.line(row) for row in rows]
    return Finding("unreadable", table.name, text, label.name, lines, len(failed), details)


def _few(table: Table, survey: LabelSurvey) -> list[Finding]:
    """Nothing to learn from, or classes of very unequal size."""
    if not survey.known:
        text = "no row has a label. Expected some. Fill the column, or leave the task out."
        return [Finding("no label", table.name, text, survey.name, count=survey.unknown)]
    counts = list(survey.classes.values())
    if survey.kind == "classification" and len(counts) == 1:
        text = f"every label is {next(iter(survey.classes))!r}. Expected two classes or more. Look at the column."
        return [Finding("one class", table.name, text, survey.name, count=survey.known)]
    if survey.kind == "classification" and counts[0] > UNEVEN * counts[-1]:
        names = list(survey.classes)
        text = (
            f"class {names[0]!r} has {counts[0]} rows, {names[-1]!r} has {counts[-1]}. Look at balanced_accuracy and "
            "macro_f1, not at accuracy; collect more of the rare classes, or take their rows several times."
        )
        return [Finding("uneven classes", table.name, text, survey.name, count=counts[-1], serious=False)]
    return []


def _distinct(table: Table, name: str) -> tuple[Sequence[Any], Tensor, dict[int, str]]:
    array = table.array(name)
    if array is None or array.dim() == 1:
        return distinct(table, name)
    found, codes = array.unique(dim=0, return_inverse=True)
    return column_of(found).cells(torch.arange(len(found))), codes, {}


def _as_number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan
