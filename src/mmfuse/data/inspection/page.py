"""An inspection as one HTML page. Everything that comes from the data is escaped, and nothing is loaded or run."""

from collections.abc import Iterable, Sequence
from html import escape

from mmfuse.data.inspection.findings import Finding, LabelSurvey, Suggestion, Survey, TableSurvey
from mmfuse.data.inspection.pictures import draw_histogram, draw_preview
from mmfuse.data.inspection.text import balance, describe, sampled

MOST = 50  # bars of a chart

STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #60646c; --line: #d9d9e0; --back: #fff; --card: #f6f7f9;
  --bar: #3b82c4; --bad: #c62f2f; --odd: #b06a00; --good: #2b7a3f; }
@media (prefers-color-scheme: dark) { :root { --text: #edeef0; --soft: #a6abb3; --line: #3a3f47; --back: #15171a;
  --card: #1f2226; --bar: #6aa9e4; --bad: #ff8a80; --odd: #ffbf5e; --good: #7fd394; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin-bottom: 0.3rem; } small, figcaption, dt { color: var(--soft); }
ol, ul { padding-left: 1.4rem; } li { margin: 0.3rem 0; } .bad { color: var(--bad); } .odd { color: var(--odd); }
.good { color: var(--good); } table { border-collapse: collapse; } td, th { padding: 0.15rem 0.8rem 0.15rem 0;
  text-align: left; vertical-align: middle; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
.bar { background: var(--bar); height: 0.7rem; border-radius: 2px; } .bars { width: 12rem; }
.row { display: flex; flex-wrap: wrap; gap: 0.8rem; align-items: flex-end; } figure { margin: 0; width: 200px; }
.row > div { background: var(--card); padding: 0.4rem; border-radius: 4px; max-width: 220px; }
svg { width: 200px; height: 60px; display: block; background: var(--card); } rect { fill: var(--bar); }
polyline { fill: none; stroke: var(--bar); stroke-width: 1.2; } .c1 { stroke: var(--good); }
.c2 { stroke: var(--odd); } .c3 { stroke: var(--bad); } img { display: block; border-radius: 2px; }
.text { margin: 0; font-size: 0.85rem; } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; }
dd { margin: 0; }
"""


def make_page(tables: Sequence[TableSurvey], findings: Sequence[Finding], suggestions: Sequence[Suggestion]) -> str:
    """The page: what is wrong, what would fit, and what is in each table, with pictures."""
    title = escape(f"Inspection of {', '.join(table.name for table in tables)}")
    problems = [finding for finding in findings if finding.serious]
    warnings = [finding for finding in findings if not finding.serious]
    body = [
        f"<h1>{title}</h1>",
        "" if problems else '<p class="good">No problem was found.</p>',
        _list("Problems", "bad", map(str, problems)),
        _list("Look at", "odd", map(str, warnings)),
        _list("Suggested settings", "good", map(str, suggestions)),
        *map(_table, tables),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>'
        f"{''.join(body)}</body></html>\n"
    )


def _list(title: str, kind: str, items: Iterable[str]) -> str:
    lines = [f"<li>{escape(item)}</li>" for item in items]
    return f'<h2 class="{kind}">{title}</h2><ol>{"".join(lines)}</ol>' if lines else ""


def _table(table: TableSurvey) -> str:
    patterns = {" + ".join(names) or "nothing at all": rows for names, rows in table.patterns.items()}
    parts = [f"<h2>{escape(table.name)} <small>{table.rows} rows</small></h2>"]
    if table.modalities:
        parts += ["<h3>Modalities that rows have</h3>", _bars(patterns)]
    parts += map(_label, table.labels)
    parts += [_survey(survey) for survey in table.modalities]
    return "".join(parts)


def _label(label: LabelSurvey) -> str:
    head = f"<h3>Label {escape(label.name)} <small>{label.known} known, {label.unknown} unknown</small></h3>"
    if label.spread is not None:
        return head + f'<div class="row">{draw_histogram(label.name, label.spread)}</div>'
    return head + (_bars(label.classes) if label.classes else f"<p>{escape(balance(label))}</p>")


def _bars(counts: object) -> str:
    """Names, numbers and bars, the first of them."""
    items = list(dict(counts).items())  # type: ignore[call-overload]
    top, total = max(items, key=lambda item: item[1])[1] or 1, sum(count for _, count in items) or 1
    rows = [
        f'<tr><td>{escape(str(name))}</td><td class="number">{count}</td><td class="number">{count / total:.1%}</td>'
        f'<td class="bars"><div class="bar" style="width:{100 * count / top:.1f}%"></div></td></tr>'
        for name, count in items[:MOST]
    ]
    more = f"<p><small>and {len(items) - MOST} more</small></p>" if len(items) > MOST else ""
    return f"<table>{''.join(rows)}</table>{more}"


def _survey(survey: Survey) -> str:
    looked = f", {sampled(survey)}" if sampled(survey) else ""
    head = f"<h3>{escape(survey.name)} <small>{escape(survey.kind)}; {survey.present} rows have it{looked}</small></h3>"
    shown = "".join(
        f"<div>{draw_preview(picture)}<small>line {picture['line']}</small></div>" for picture in survey.previews
    )
    drawn = [draw_histogram(name, spread) for name, spread in survey.spreads.items() if len(spread.bars) > 1]
    rest = {name: text for name, text in describe(survey).items() if not _is_drawn(survey, name)}
    told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rest.items())
    return f'{head}<div class="row">{shown}</div><dl>{told}</dl><div class="row">{"".join(drawn)}</div>'


def _is_drawn(survey: Survey, name: str) -> bool:
    return name in survey.spreads and len(survey.spreads[name].bars) > 1
