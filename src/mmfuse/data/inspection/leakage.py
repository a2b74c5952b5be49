"""What occurs twice: rows, files and names within a table, and rows of one table that are in another."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfuse.data.inspection.cells import distinct, some_cells
from mmfuse.data.inspection.contents import ABSENT, Contents, joined
from mmfuse.data.inspection.findings import KEPT, Finding, Shared
from mmfuse.data.inspection.plan import Modality
from mmfuse.data.tables.table import Table

All = Mapping[str, Contents]  # of each modality


def repeats(
    table: Table, modalities: Sequence[Modality], contents: All, labels: Sequence[str], id: str | None
) -> list[Finding]:
    """What stands more than once in one table."""
    found = _whole_rows(table, contents, labels)
    for modality in modalities:
        if modality.kind not in ("text", "table"):  # the same word for two pictures is nothing out of the ordinary
            found += _same_content(table, modality.name, contents[modality.name])
    if id is not None:
        codes = distinct(table, id)[1]
        groups = _groups(codes)
        if groups:
            text = "ids stand in several rows. Expected different ones. Mend them:"
            found.append(_finding("repeated id", table, text, groups, column=id, serious=True))
    return found


def shared_rows(
    one: Table, other: Table, modalities: Sequence[Modality], of_one: All, of_other: All
) -> tuple[Shared, list[Finding]]:
    """Which rows of the second table are in the first; absent cells are the same as nothing."""
    keys, others = _keys(of_one), _keys(of_other)
    whole = _is_in(others, keys)
    found, partly = [], {}
    if bool(whole.any()):
        text = (
            f"rows are in {one.name} too, the same in every modality: what is measured on them says nothing of new "
            "data. Remove them from one of the two:"
        )
        found.append(_leak("leakage", other, text, whole, details=_twins(one, keys, others[whole])))
    for modality in modalities:
        mine, yours = of_one[modality.name].numbers, of_other[modality.name].numbers
        part = _is_in(yours, mine) & ~whole
        partly[modality.name] = int((part | (whole & (yours >= 0))).sum())
        if bool(part.any()) and modality.kind not in ("text", "table"):
            text = (
                f"values are in {one.name} too, beside others in the other modalities. Is that meant? Otherwise split "
                "again, with group=:"
            )
            more: Any = {"column": modality.name, "serious": False, "details": _twins(one, mine, yours[part])}
            found.append(_leak("partial leakage", other, text, part, **more))
    return Shared(other.name, one.name, int(whole.sum()), partly), found


def shared_groups(one: Table, other: Table, group: str) -> list[Finding]:
    """Groups (one speaker, one patient) that have rows in both tables."""
    names = {str(cell) for cell in distinct(one, group)[0]}
    cells, codes, _ = distinct(other, group)
    both = [place for place, cell in enumerate(cells) if str(cell) in names]
    if not both:
        return []
    rows = torch.isin(codes, torch.tensor(both, dtype=codes.dtype))
    shown = ", ".join(f"{str(cells[place])!r:.60}" for place in both[:5])
    more = f" and {len(both) - 5} more" if len(both) > 5 else ""
    text = f"groups are in {one.name} too: {shown}{more}. Split with table.split(..., group={group!r})."
    return [_leak("shared group", other, text, rows, column=group)]


def _whole_rows(table: Table, contents: All, labels: Sequence[str]) -> list[Finding]:
    groups = _groups(_keys(contents)) if contents else []
    if not groups:
        return []
    alike: list[list[int]] = []
    unlike: list[list[int]] = []
    for rows in groups:
        same = all(len(set(map(str, some_cells(table, torch.tensor(rows), name)))) == 1 for name in labels)
        (alike if same else unlike).append(rows)
    found = []
    if alike:
        text = "rows say the same as another in every modality. Remove them, unless that is meant:"
        found.append(_finding("repeated row", table, text, alike))
    if unlike:
        text = "rows are the same as another in every modality, but have another label. Mend them:"
        found.append(_finding("contradiction", table, text, unlike))
    return found


def _same_content(table: Table, name: str, contents: Contents) -> list[Finding]:
    """Files of one content under several names; for cells that hold their content: the same in several rows."""
    named = contents.names >= 0
    groups = []
    for rows in _groups(contents.numbers):
        if not bool(named[rows].all()):
            groups.append(rows)
        elif len(firsts := _first_of_each(contents.names, rows)) > 1:
            groups.append(firsts)
    if not groups:
        return []
    under = "under several names" if bool(named.any()) else "in several rows"
    text = f"the same content stands {under}. Is that meant? Otherwise keep one of each:"
    return [_finding("same content", table, text, groups, column=name)]


def _first_of_each(names: Tensor, rows: Sequence[int]) -> list[int]:
    firsts: dict[int, int] = {}
    for row, name in zip(rows, names[list(rows)].tolist(), strict=True):
        firsts.setdefault(name, row)
    return list(firsts.values())


def _keys(contents: All) -> Tensor:
    """A number for each row; below 0 where it has nothing, or not all of it was looked at."""
    return joined([part.numbers for part in contents.values()])


def _groups(numbers: Tensor) -> list[list[int]]:
    """The rows of each number that occurs more than once, in the order of their first rows."""
    rows = (numbers > ABSENT).nonzero().flatten()
    values, order = numbers[rows].sort(stable=True)
    counts = values.unique_consecutive(return_counts=True)[1]
    ends = counts.cumsum(0)
    many = (counts > 1).nonzero().flatten()
    bounds = zip((ends - counts)[many].tolist(), ends[many].tolist(), strict=True)
    return sorted(rows[order[start:end]].tolist() for start, end in bounds)


def _is_in(numbers: Tensor, others: Tensor) -> Tensor:
    return torch.from_numpy(np.isin(numbers.numpy(), others[others >= 0].numpy())) & (numbers >= 0)


def _twins(one: Table, keys: Tensor, wanted: Tensor) -> list[str]:
    """Where in a table the first few contents stand."""
    return [f"= line {one.line(int((keys == key).nonzero()[0]))} of {one.name}" for key in wanted[:KEPT]]


def _leak(kind: str, table: Table, text: str, rows: Tensor, **more: Any) -> Finding:
    where = rows.nonzero().flatten().tolist()
    lines = [table.line(row) for row in where[:KEPT]]
    return Finding(kind, table.name, text, lines=lines, count=len(where), **more)


def _count(groups: Sequence[Sequence[int]]) -> int:
    """How many rows are too many."""
    return sum(len(rows) - 1 for rows in groups)


def _finding(kind: str, table: Table, text: str, groups: list[list[int]], **more: Any) -> Finding:
    pairs = [(row, rows[0]) for rows in groups[:KEPT] for row in rows[1:]][:KEPT]
    lines = [table.line(row) for row, _ in pairs]
    details = [f"= line {table.line(first)}" for _, first in pairs]
    return Finding(
        kind, table.name, text, lines=lines, count=_count(groups), details=details, **{"serious": False} | more
    )
