"""docs/speed.md, made from the rows of benchmarks/fusion.py."""

from collections.abc import Mapping, Sequence

from common import Row, machine, table

INTRODUCTION = """# Speed

Made by `python benchmarks/fusion.py --markdown docs/speed.md`; do not edit it by hand. Measured with torch {torch}
on {device}, {threads} thread.

Every method runs next to a plain implementation of the same equation (`benchmarks/plain/`), with the same parameters,
on the same full batch. Both are compared in float64 first (results and gradients, to 1e-9), then forward and backward
of both run in turn in one process, and only ratios are of interest: times of a shared machine mean nothing. Ours reads
masks and presence all the while; the plain one does not.

- **time**: ours / plain; to be at most {slower:g}.
- **peak**: the most memory that one forward and backward holds, ours / plain.
- **kernels**: operations that are no views, ours and plain: on a GPU about so many launches.
- **over products**: ours / the matrix products of ours alone, back to back; to be at most {pooled:g} (pooled) or
  {tokens:g} (tokens).
- **graphs**: how often `torch.compile(fullgraph=True)` compiles anew over 8 different lengths; to be at most 1, and
  the graph must be whole.
- **leak**: how much a sample changes when all other samples of the batch change; to be exactly 0.

Bold numbers miss their target.

## All methods

Pooled: batches of 64, modalities 768 wide, to 512; three modalities, or two where the method is for two. Tokens:
batches of {batch} (MulT, which has 230 million parameters there: 2), {times} tokens 512 wide, to 512.
"""

GOALS = """
## Goals of single methods

At the shapes for which other libraries are known, against plain implementations that do what these do. `products` is
the time of the matrix products alone. Recurrent fusion (MFN; G11) has no method here yet.
"""


def page(
    measured: Mapping[str, Mapping[str, Row]],
    goals: Sequence[Row],
    times: Sequence[int],
    batch: int,
    limits: tuple[float, float, float],
) -> str:
    """The whole page."""
    slower, pooled, tokens = limits
    written = ", ".join(str(time) for time in times[:-1]) + f" and {times[-1]}"
    head = INTRODUCTION.format(**machine(), slower=slower, pooled=pooled, tokens=tokens, batch=batch, times=written)
    shown = [row for row in goals if row.target is not None and "difference from plain" not in row.name]
    return f"{head}\n{_methods(measured)}\n{GOALS}\n{table(shown)}\n"


def _methods(measured: Mapping[str, Mapping[str, Row]]) -> str:
    lines = [
        "| method | time | peak | kernels | over products | graphs | leak |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rows in measured.items():
        counts = f"{rows['kernels'].ours:g}, {rows['kernels'].other:g}"
        whole = _marked("broken", False) if rows["whole"].met is False else _ratio(rows["again"], "g")
        cells = [_ratio(rows["time"]), _ratio(rows["peak"]), counts, _ratio(rows["products"]), whole]
        lines.append(f"| {name} | {' | '.join(cells)} | {_ratio(rows['leak'], 'g')} |")
    return "\n".join(lines)


def _ratio(row: Row, form: str = ".2f") -> str:
    return _marked(f"{row.ratio:{form}}", row.met)


def _marked(text: str, met: bool | None) -> str:
    return f"**{text}**" if met is False else text
