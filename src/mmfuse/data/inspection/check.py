"""A table -> what is in it, what is wrong with it, and which settings fit it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch

from mmfuse._checks import require_not_negative, require_positive
from mmfuse.data.inspection.contents import Contents, contents_of
from mmfuse.data.inspection.findings import KEPT, Finding, LabelSurvey, Shared, Survey, TableSurvey
from mmfuse.data.inspection.labels import survey_labels
from mmfuse.data.inspection.leakage import repeats, shared_groups, shared_rows
from mmfuse.data.inspection.plan import Label, Modality, make_plan
from mmfuse.data.inspection.report import DataReport
from mmfuse.data.inspection.suggest import suggest
from mmfuse.data.inspection.survey import survey_modality
from mmfuse.data.inspection.tabular import survey_table
from mmfuse.data.tables.table import Table

FIRST = ("leakage", "shared group", "unknown class", "empty modality", "no label")  # are told before others


def inspect(  # noqa: PLR0913  flat keywords: what to look at, and how much of it
    table: Table,
    how: Any,
    *,
    against: Mapping[str, Table] | None = None,
    group: str | None = None,
    id: str | None = None,
    sample: int | None = 2000,
    decode: bool = False,
    workers: int = 0,
    seed: int = 0,
) -> DataReport:
    """Look at data before training: what is there, what is wrong, what occurs twice, and which settings fit.

    ::

        report = inspect(train, {"photo": "image", "note": "text", "kind": "classification"}, against={"test": test})
        print(report)
        report.to_html("data.html")

    Nothing in the data stops it. Cells, labels, and which modalities occur together are counted in all rows; files are
    looked for, and compared by their content, in up to 100,000 rows of a table; ``sample`` rows are opened.

    Args:
        table: the training table.
        how: a model: then every value that is opened is read as in training. Or, before there is one, what stands in
            each column: "image", "audio", "text", "series", "video", "feature", "number" or "category"; for labels
            "classification", "multilabel" (with "|" between names) or "regression"; a mapping from columns to "number"
            and "category" for a modality of several; or a transform or a task.
        against: other tables, such as ``{"test": test}``: their rows should not be in the training table, and their
            classes should.
        group: a column whose cells should not be in two tables (one speaker, one patient).
        id: a column whose cells should all be different.
        sample: of how many rows, drawn at random, the values of a modality are opened; None: of all.
        decode: decode the sounds and videos that are opened to their end, for damage that no header tells of (FLAC,
            MPEG-4 and H.264 tell all of it, MP3, Ogg and VP8 little); images always are.
        workers: threads that read files, for slow disks. Results do not depend on their number.
        seed: of the sample.

    Raises:
        TypeError, ValueError: ``how`` is none of these.
        DataError: a table lacks a column that is named.
    """
    require_not_negative("inspect", workers=workers)
    require_positive("inspect", sample=1 if sample is None else sample)
    named = {name: replace(other, name=_name(name, other)) for name, other in (against or {}).items()}
    modalities, labels = make_plan(table, how)
    modalities = [replace(modality, whole=decode) for modality in modalities]
    tables = [table, *named.values()]
    for each in tables:
        for column in [c for part in modalities for c in part.columns] + [c for c in (group, id) if c is not None]:
            each.require_column(column)
    with ThreadPoolExecutor(workers) if workers else nullcontext() as pool:
        looking = _Inspection(tables, modalities, labels, group, id, sample, seed, pool)
        surveys, findings, shared = looking.all()
    others = dict(zip(named, surveys[1:], strict=True))
    suggestions = suggest(surveys[0], surveys[1:])
    return DataReport(surveys[0], others, findings, suggestions, shared)


@dataclass(frozen=True)
class _Inspection:
    tables: Sequence[Table]  # the first: of training
    modalities: Sequence[Modality]
    labels: Sequence[Label]
    group: str | None
    id: str | None
    sample: int | None
    seed: int
    pool: ThreadPoolExecutor | None

    def all(self) -> tuple[list[TableSurvey], list[Finding], list[Shared]]:
        """Every table, what is wrong with it, and what two have in common."""
        contents = self._contents()
        findings: list[Finding] = []
        surveys: list[TableSurvey] = []
        for table, found in zip(self.tables, contents, strict=True):
            modalities = self._modalities(table, found, surveys, findings)
            labels = self._labels(table, surveys, findings)
            surveys.append(TableSurvey(table.name, len(table), self._patterns(table, found), labels, modalities))
            findings += self._without_any(table, found)
            if self.modalities or self.id:
                names = [label.name for label in self.labels if label.name in table.columns]
                findings += repeats(table, self.modalities, found, names, self.id)
        shared = [self._compare(one, other, contents, findings) for one, other in combinations(range(len(contents)), 2)]
        findings = _told_once(findings, self.tables[0])
        return surveys, findings, shared if self.modalities else []

    def _contents(self) -> list[dict[str, Contents]]:
        """What stands in each table, by modality."""
        found: list[dict[str, Contents]] = [{} for _ in self.tables]
        for modality in self.modalities:
            for mine, part in zip(
                found, contents_of(self.tables, modality, seed=self.seed, pool=self.pool), strict=True
            ):
                mine[modality.name] = part
        return found

    def _modalities(
        self, table: Table, contents: dict[str, Contents], before: Sequence[TableSurvey], findings: list[Finding]
    ) -> list[Survey]:
        surveys = []
        for modality in self.modalities:
            if modality.kind == "table":
                train = self.tables[0] if before else None
                survey, wrong = survey_table(table, modality, contents[modality.name], train)
            else:
                settings: Any = {"sample": self.sample, "seed": self.seed, "pool": self.pool}
                survey, wrong = survey_modality(table, modality, contents[modality.name], **settings)
            surveys.append(survey)
            findings += [_less(finding) for finding in wrong] if before else wrong
        return surveys

    def _labels(self, table: Table, before: Sequence[TableSurvey], findings: list[Finding]) -> list[LabelSurvey]:
        surveys = []
        for place, label in enumerate(self.labels):
            survey, wrong = survey_labels(table, label, before[0].labels[place] if before else None)
            surveys.append(survey)
            findings += wrong
        return surveys

    def _patterns(self, table: Table, contents: dict[str, Contents]) -> dict[tuple[str, ...], int]:
        """Which modalities occur together, and in how many rows; the most frequent first."""
        codes = torch.zeros(len(table), dtype=torch.int64)
        names: list[tuple[str, ...]] = [()]
        for modality in self.modalities:
            here = contents[modality.name].present
            found, codes = (codes * 2 + here).unique(return_inverse=True)
            names = [names[code // 2] + (modality.name,) * (code % 2) for code in found.tolist()]
        counts = dict(zip(names, codes.bincount(minlength=len(names)).tolist(), strict=True))
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def _without_any(self, table: Table, contents: dict[str, Contents]) -> list[Finding]:
        """The rows without any modality: a problem if they are more than half."""
        if not self.modalities:
            return []
        some = torch.stack([contents[modality.name].present for modality in self.modalities]).any(dim=0)
        rows = (~some).nonzero().flatten().tolist()
        text = (
            f"{len(rows)} of {len(table)} rows have no modality at all: they teach nothing but the frequency of the "
            "labels. Fill their cells, or leave them out."
        )
        lines, serious = [table.line(row) for row in rows[:KEPT]], 2 * len(rows) > len(table)
        return [Finding("no modality", table.name, text, "", lines, len(rows), serious=serious)] if rows else []

    def _compare(
        self, one: int, other: int, contents: Sequence[dict[str, Contents]], findings: list[Finding]
    ) -> Shared:
        tables = self.tables[one], self.tables[other]
        shared = Shared(tables[1].name, tables[0].name, 0, {})
        if self.modalities:
            shared, wrong = shared_rows(*tables, self.modalities, contents[one], contents[other])
            findings += wrong
        if self.group is not None:
            findings += shared_groups(*tables, self.group)
        return shared


def _less(finding: Finding) -> Finding:
    """A modality that other tables lack is no problem for training."""
    return replace(finding, serious=False) if finding.kind == "empty modality" else finding


def _told_once(findings: Sequence[Finding], train: Table) -> list[Finding]:
    """What is most important first; a modality that training lacks is not said to be lacking elsewhere too."""
    nowhere = {part.column for part in findings if part.kind == "empty modality" and part.table == train.name}
    kept = [p for p in findings if p.kind != "empty modality" or p.table == train.name or p.column not in nowhere]
    return sorted(
        kept, key=lambda part: (not part.serious, FIRST.index(part.kind) if part.kind in FIRST else len(FIRST))
    )


def _name(name: str, table: Table) -> str:
    """What a table is called in messages: its file, and what it was given as where that does not say it."""
    return table.name if table.name.startswith(name) else f"{name} ({table.name})"
