"""One modality of one table: how many rows have it, how large its values are, and which cannot be read."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfuse.data.inspection.cells import Failed, blocks, choose, in_threads, value_of
from mmfuse.data.inspection.contents import MISSING, Contents
from mmfuse.data.inspection.findings import KEPT, Finding, Survey, spread_of
from mmfuse.data.inspection.measure import measure
from mmfuse.data.inspection.pictures import preview
from mmfuse.data.inspection.plan import Modality
from mmfuse.data.loading.seeding import Seeded
from mmfuse.data.tables.table import Table

PICTURES = 6  # of each modality
RARE = 0.01  # share of the rows


def survey_modality(
    table: Table,
    modality: Modality,
    contents: Contents,
    *,
    sample: int | None,
    seed: int,
    pool: ThreadPoolExecutor | None,
) -> tuple[Survey, list[Finding]]:
    """What a modality holds, and what is wrong with it.

    Args:
        table: the rows.
        modality: what to look at.
        contents: which files are missing or refused; those are not opened.
        sample: largest number of rows whose values are opened; None: all.
        seed: of the sample.
        pool: opens several at a time.
    """
    here = contents.present
    findings = [*_rare(table, modality, here), *refused(table, modality, contents)]
    usable = contents.numbers >= 0  # files that are missing, or were not looked for, are not opened
    rows = choose(usable.nonzero().flatten(), sample, seed)
    measured, numbers, previews, faults = _measure_all(table, modality, rows, pool)
    if modality.kind == "text":
        numbers |= _letters(table, modality, here.nonzero().flatten())
    findings += _unreadable(table, modality, faults, len(rows))
    findings += unusual(table, modality, numbers, measured)
    spreads = {name: spread for name, (_, values) in numbers.items() if (spread := spread_of(values))}
    counts = {name: dict(Counter(words.values()).most_common(KEPT)) for name, words in measured.items()}
    compared = int(usable.sum()) + len(contents.faults)
    looked = compared if len(rows) == int(usable.sum()) else len(rows)
    kept = Survey(modality.name, modality.kind, int(here.sum()), looked, compared, spreads, counts, previews)
    return kept, findings


Numbers = dict[str, tuple[Any, Any]]  # name -> rows and values


def _measure_all(
    table: Table, modality: Modality, rows: Tensor, pool: ThreadPoolExecutor | None
) -> tuple[dict[str, dict[int, str]], Numbers, list[Mapping[str, Any]], dict[int, str]]:
    """Words by name and row, numbers by name, some pictures, and the reason for each row that cannot be read."""
    words: dict[str, dict[int, str]] = {}
    numbers: dict[str, tuple[list[int], list[float]]] = {}
    previews: list[Mapping[str, Any]] = []
    faults: dict[int, str] = {}
    with Seeded(enabled=bool(getattr(modality.transform, "random", False))):
        for row, found, value in _found(table, modality, rows, pool):
            if isinstance(found, str):
                faults[row] = found
                continue
            for name, size in found.items():
                if isinstance(size, str):
                    words.setdefault(name, {})[row] = size
                else:
                    of_rows, sizes = numbers.setdefault(name, ([], []))
                    of_rows.append(row)
                    sizes.append(size)
            if len(previews) < PICTURES and (picture := preview(value, modality)):
                previews.append({"line": table.line(row), **picture})
    return words, {name: (np.array(of), np.array(sizes)) for name, (of, sizes) in numbers.items()}, previews, faults


def _found(
    table: Table, modality: Modality, rows: Tensor, pool: ThreadPoolExecutor | None
) -> Iterator[tuple[int, Any, Any]]:
    """Row by row the sizes of its value, or the reason why it cannot be read; and the value."""

    def look(item: tuple[int, Sequence[Any]]) -> tuple[int, Any, Any]:
        row, cells = item
        try:
            value = value_of(table, modality, cells)
            return row, measure(value, modality), value
        except ImportError:  # of this machine, not of the data
            raise
        except Exception as error:
            return row, str(error) or type(error).__name__, None

    for some, columns in blocks(table, rows, modality.columns, 256):  # so that few values are held at a time
        yield from in_threads(pool, look, zip(some.tolist(), zip(*columns, strict=True), strict=True))


def _letters(table: Table, modality: Modality, rows: Tensor) -> Numbers:
    """Letters and words of all texts."""
    letters, words = [np.zeros(0)], [np.zeros(0)]
    for _, columns in blocks(table, rows, modality.columns):
        texts = [[_as_text(cell) for cell in column] for column in columns]
        letters.append(np.sum([[len(text) for text in column] for column in texts], axis=0))
        words.append(np.sum([[len(text.split()) for text in column] for column in texts], axis=0))
    return {"letters": (rows.numpy(), np.concatenate(letters)), "words": (rows.numpy(), np.concatenate(words))}


def _as_text(cell: Any) -> str:
    if cell is None or isinstance(cell, Failed):
        return ""
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def _rare(table: Table, modality: Modality, here: Tensor) -> list[Finding]:
    count, rows = int(here.sum()), len(table)
    if count == 0:
        text = "no row has this modality. Expected some. Is it the right column? Leave it out of the model, or fill it."
        return [Finding("empty modality", table.name, text, modality.name, count=rows)]
    if count < RARE * rows:
        text = (
            f"only {count} of {rows} rows have this modality ({count / rows:.2%}). An encoder learns little from so "
            "few. Look whether the column was read as meant."
        )
        lines = _lines(table, here.nonzero().flatten().tolist())
        return [Finding("rare modality", table.name, text, modality.name, lines, count, serious=False)]
    return []


def refused(table: Table, modality: Modality, contents: Contents) -> list[Finding]:
    """Files that are missing or may not be opened, and cells that cannot be had."""
    good = int((contents.numbers >= 0).sum())
    missing = {row: text for row, text in contents.faults.items() if text.startswith(MISSING)}
    others = {row: text for row, text in contents.faults.items() if row not in missing}
    found = []
    if missing:
        total = good + len(contents.faults)
        text = f"{len(missing)} of {total} files that are named do not exist. Mend the paths, or copy the files:"
        found.append(_each(table, modality, "missing file", text, missing))
    if others:
        text = f"{len(others)} of {good + len(contents.faults)} values are refused:"
        found.append(_each(table, modality, "refused file", text, others))
    return found


def _unreadable(table: Table, modality: Modality, faults: dict[int, str], opened: int) -> list[Finding]:
    if not faults:
        return []
    text = f"{len(faults)} of {opened} values that were opened cannot be read. Mend the files, or empty the cells:"
    return [_each(table, modality, "unreadable", text, faults)]


def _each(table: Table, modality: Modality, kind: str, text: str, reasons: dict[int, str]) -> Finding:
    rows = sorted(reasons)
    details = [f"{_cell(table, modality, row)}: {reasons[row]}" for row in rows[:KEPT]]
    return Finding(kind, table.name, text, modality.name, _lines(table, rows), len(rows), details)


def _cell(table: Table, modality: Modality, row: int) -> str:
    try:
        cells = [table.cell(row, column) for column in modality.columns]
    except Exception:  # of a user's own Dataset
        return "a cell"
    return " ".join(f"{cell:.100}" if isinstance(cell, str) else f"a {type(cell).__name__}" for cell in cells)


def _lines(table: Table, rows: Sequence[int]) -> list[int]:
    return [table.line(row) for row in rows[:KEPT]]


def unusual(
    table: Table, modality: Modality, numbers: Numbers, words: Mapping[str, Mapping[int, str]]
) -> list[Finding]:
    """Values that can be read but differ from the others, or that training would not take as they are."""

    def found(kind: str, text: str, rows: Any, *, serious: bool = False) -> Finding:
        rows = [int(row) for row in rows]
        return Finding(kind, table.name, text, modality.name, _lines(table, rows), len(rows), serious=serious)

    findings = []
    for name, of_rows in words.items():
        (usual, times), *others = Counter(of_rows.values()).most_common()
        if name in ("rate_hz", "channels", "columns", "width", "shape") and others and times > 0.5 * len(of_rows):
            mixed = modality.kind in ("series", "feature")
            odd = [row for row, word in of_rows.items() if word != usual]
            text = f"most have {name} {usual}, others {' or '.join(word for word, _ in others[:4])}."
            mend = _MEND_COLUMNS if name == "columns" else _MEND[mixed]
            findings.append(found(f"odd {name}", f"{text} {mend}", odd, serious=mixed))
    of, missing = numbers.get("missing values", ([], np.zeros(0)))
    if (missing > 0).any() and modality.transform is None:
        text = "series have missing values (NaN). Build the encoder with reading={'gaps': 'keep'}, or fill them."
        findings.append(found("gaps", text, torch.as_tensor(of)[missing > 0], serious=True))
    of, lost = numbers.get("cut off", ([], np.zeros(0)))
    if (lost > 0).any():
        text = f"values are cut off at their end ({(lost > 0).mean():.1%} of those looked at). Raise the limit."
        findings.append(found("cut off", text, torch.as_tensor(of)[lost > 0]))
    of, letters = numbers.get("letters", ([], np.zeros(0)))
    if len(letters) and (long := letters > max(1000, 10 * np.median(letters))).any():
        text = f"texts are more than 10 times as long as usual ({np.median(letters):.0f} letters), up to "
        text += f"{letters.max():.0f} letters. Are they one sample each?"
        findings.append(found("long text", text, torch.as_tensor(of)[long]))
    return findings


_MEND_COLUMNS = "Channels are found by their names. Name them alike, or leave columns out."
_MEND = {
    True: "An encoder takes one number. Mend these, or leave them out.",
    False: "Is that meant? A transform brings them to one.",
}
