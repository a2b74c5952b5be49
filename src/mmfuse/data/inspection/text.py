"""An inspection on one screen."""

from collections.abc import Mapping, Sequence
from textwrap import shorten

from mmfuse.data.inspection.findings import Finding, LabelSurvey, Suggestion, Survey, TableSurvey, visible

MOST = 10  # findings, combinations and classes that are shown
LONGEST = 400  # letters of a finding


def make_text(tables: Sequence[TableSurvey], findings: Sequence[Finding], suggestions: Sequence[Suggestion]) -> str:
    """What is wrong, what is there, and what would fit."""
    sizes = ", ".join(f"{table.name} {table.rows} rows" for table in tables)
    problems = [finding for finding in findings if finding.serious]
    warnings = [finding for finding in findings if not finding.serious]
    lines = [f"{sizes}: {_count(len(problems), 'problem')}, {_count(len(warnings), 'warning')}."]
    lines += _list("Problems", problems) + _list("Look at", warnings)
    for table in tables:
        lines += ["", f"{table.name}"]
        lines += _patterns(table) + [_label(label, table.rows) for label in table.labels]
        lines += [line for survey in table.modalities for line in _survey(survey)]
    if suggestions:
        lines += ["", "Suggested", *(f"  {suggestion}" for suggestion in suggestions)]
    return "\n".join(line.rstrip() for line in lines)


def describe(survey: Survey) -> dict[str, str]:
    """The sizes and counts of a modality, each in a few words."""
    found = {name: str(spread) for name, spread in survey.spreads.items() if spread.quantiles["max"] or name in _ALWAYS}
    for name, counts in survey.counts.items():
        found[name] = _shares(counts, whole=name != "missing cells")
    return found


def sampled(survey: Survey) -> str:
    """Which numbers are of a part of the rows only."""
    parts = []
    if survey.looked < survey.compared:
        parts.append(f"a sample of {survey.looked} of {survey.present} rows was opened")
    if survey.compared < survey.present:
        parts.append(f"{survey.compared} rows were looked for and compared")
    if parts and survey.kind == "text":
        parts.append("letters and words are of all")
    return ", ".join(parts)


def balance(label: LabelSurvey) -> str:
    """How labels are spread, in a line."""
    if label.spread is not None:
        return str(label.spread)
    return _shares(label.classes) if label.classes else ""


def _list(title: str, findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    lines = ["", title]
    for number, finding in enumerate(findings[:MOST], start=1):
        lines.append(f"  {number}. {shorten(str(finding), LONGEST, placeholder=' ...')}")
    return lines + ([f"  and {len(findings) - MOST} more: see report.findings"] if len(findings) > MOST else [])


def _patterns(table: TableSurvey) -> list[str]:
    if not table.modalities:
        return []
    lines = []
    for names, rows in list(table.patterns.items())[:MOST]:
        lines.append(f"  {rows:>9} rows {rows / table.rows:7.2%}  {' + '.join(names) or 'nothing at all'}")
    more = len(table.patterns) - MOST
    return lines + ([f"  and {more} more combinations"] if more > 0 else [])


def _label(label: LabelSurvey, rows: int) -> str:
    unknown = f", {label.unknown} of {rows} unknown" if label.unknown else ""
    return shorten(f"label {label.name}{unknown}: {visible(balance(label))}", 160, placeholder=" ...").join(["  ", ""])


def _survey(survey: Survey) -> list[str]:
    if not survey.present:
        return []
    looked = f" ({sampled(survey)})" if sampled(survey) else ""
    parts = "; ".join(f"{name} {text}" for name, text in describe(survey).items())
    return [shorten(f"{survey.name}{looked}: {visible(parts)}", 300, placeholder=" ...").join(["  ", ""])]


_ALWAYS = ("seconds", "width", "height", "tokens", "steps", "words", "letters")


def _shares(counts: Mapping[str, int], *, whole: bool = True) -> str:
    total = sum(counts.values())
    shown = list(counts.items())[:MOST]
    more = len(counts) - len(shown)
    each = [f"{name} {count / total:.0%}" if whole and total else f"{name} {count}" for name, count in shown]
    return ", ".join(each) + (f" and {more} more" if more > 0 else "")


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
