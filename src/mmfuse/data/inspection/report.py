"""What an inspection found, as text, JSON and a page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from mmfuse.data.inspection.findings import Finding, Shared, Suggestion, TableSurvey
from mmfuse.data.inspection.page import make_page
from mmfuse.data.inspection.text import make_text


@dataclass(frozen=True)
class DataReport:
    """What :func:`mmfuse.data.inspect` found. ``print(report)`` tells it on one screen; it is true if nothing is wrong.

    Args:
        table: what is in the table.
        against: what is in the other tables, by the names that they were given.
        findings: all that is wrong or should be looked at.
        suggestions: settings that fit the data.
        shared: how many rows of one table are in another.
    """

    table: TableSurvey
    against: Mapping[str, TableSurvey]
    findings: Sequence[Finding]
    suggestions: Sequence[Suggestion]
    shared: Sequence[Shared]

    @property
    def problems(self) -> list[Finding]:
        """What stops training, or makes what is measured wrong."""
        return [finding for finding in self.findings if finding.serious]

    @property
    def warnings(self) -> list[Finding]:
        """What should be looked at."""
        return [finding for finding in self.findings if not finding.serious]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def settings(self, modality: str) -> dict[str, Any]:
        """What is suggested, as keywords of a transform: ``AudioTransform(**report.settings("audio"))``."""
        return {s.setting: s.value for s in self.suggestions if s.column == modality and s.value is not None}

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        """The whole report on about one screen, what is most important first."""
        return make_text([self.table, *self.against.values()], self.findings, self.suggestions)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, in lists, mappings, text and finite numbers."""
        return {
            "ok": self.ok,
            "problems": _plain(self.problems),
            "warnings": _plain(self.warnings),
            "suggestions": _plain(self.suggestions),
            "table": _plain(self.table),
            "against": _plain(self.against),
            "shared": _plain(self.shared),
        }

    def to_json(self, path: str | Path) -> None:
        """Write :meth:`to_dict` to a file."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        Path(path).write_text(f"{text}\n", encoding="utf-8")

    def to_html(self, path: str | Path) -> None:
        """Write one page with pictures, which needs no other file and no network."""
        page = make_page([self.table, *self.against.values()], self.findings, self.suggestions)
        Path(path).write_bytes(page.encode("utf-8", "replace"))


def _plain(value: Any) -> Any:
    if isinstance(value, TableSurvey):
        patterns = [{"modalities": list(names), "rows": rows} for names, rows in value.patterns.items()]
        parts = {"labels": _plain(value.labels), "modalities": _plain(value.modalities)}
        return {"name": value.name, "rows": value.rows, "patterns": patterns, **parts}
    if is_dataclass(value):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value) if part.name != "previews"}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
