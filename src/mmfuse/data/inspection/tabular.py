"""Columns of numbers and categories: cells that are missing, no numbers, or not known from training."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmfuse.data.inspection.cells import distinct
from mmfuse.data.inspection.contents import Contents
from mmfuse.data.inspection.findings import KEPT, Finding, Survey, spread_of
from mmfuse.data.inspection.plan import Modality
from mmfuse.data.inspection.survey import refused
from mmfuse.data.tables.table import Table
from mmfuse.data.transforms.tabular import as_category


def survey_table(
    table: Table, modality: Modality, contents: Contents, train: Table | None = None
) -> tuple[Survey, list[Finding]]:
    """What the columns of a tabular modality hold; of all rows.

    Args:
        table: the rows.
        modality: says which columns are numbers, and which categories.
        contents: which rows have it.
        train: the training table, where this is another one.
    """
    rows = len(table)
    here = contents.present
    findings, spreads, counts, missing = refused(table, modality, contents), {}, {}, {}
    if not bool(here.any()):
        text = "no row has this modality. Expected some. Is it the right column? Leave it out of the model, or fill it."
        findings.append(Finding("empty modality", table.name, text, modality.name, count=rows))
    for column in modality.columns:
        cells, codes, _ = distinct(table, column)
        missing[column] = int((codes < 0).sum())
        if column in modality.numbers:
            numbers = [_as_number(cell) for cell in cells]
            values = torch.tensor([*numbers, math.nan], dtype=torch.float64)[codes]
            if spread := spread_of(values.numpy()):
                spreads[column] = spread
            wrong = [place for place, number in enumerate(numbers) if not math.isfinite(number)]
            findings += _wrong(table, column, cells, codes, wrong, _NO_NUMBER)
        else:
            names = [as_category(cell) for cell in cells]
            counts[column] = _count(names, codes)
            known = _known(modality, column, train)
            wrong = [] if known is None else [place for place, name in enumerate(names) if name not in known]
            findings += _wrong(table, column, cells, codes, wrong, _UNSEEN)
    if any(missing.values()):
        counts["missing cells"] = {column: number for column, number in missing.items() if number}
    return Survey(modality.name, "table", int(here.sum()), rows, rows, spreads, counts), findings


_NO_NUMBER = ("no number", "cells are no finite numbers: {}. Mend or empty them, or make the column a category.", True)
_UNSEEN = ("unseen category", "categories that training does not have: {}. They all count as one, 'unseen'.", False)


def _wrong(
    table: Table, column: str, cells: Sequence[Any], codes: Tensor, wrong: Sequence[int], how: tuple[str, str, bool]
) -> list[Finding]:
    if not wrong:
        return []
    kind, text, serious = how
    rows = torch.isin(codes, torch.tensor(wrong, dtype=codes.dtype)).nonzero().flatten().tolist()
    shown = ", ".join(f"{str(cells[place])!r:.60}" for place in wrong[:5])
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    lines = [table.line(row) for row in rows[:KEPT]]
    return [Finding(kind, table.name, text.format(shown + more), column, lines, len(rows), serious=serious)]


def _known(modality: Modality, column: str, train: Table | None) -> set[str | None] | None:
    given = modality.categories.get(column)
    if given is not None:
        return set(given)
    return None if train is None else {as_category(cell) for cell in distinct(train, column)[0]}


def _count(names: Sequence[str | None], codes: Tensor) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for name, count in zip(names, codes[codes >= 0].bincount(minlength=len(names)).tolist(), strict=True):
        counts[str(name)] += count
    return dict(counts.most_common(KEPT))


def _as_number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return math.nan
