"""docs/speed.md, made from the rows of benchmarks/fusion.py."""

from collections.abc import Iterable, Mapping

from common import Row, machine, table

SLOWER, OVER_POOLED, OVER_TOKENS = 1.05, 1.3, 1.5  # what the page asks of every method
INTRODUCTION = """# Speed

Made by `python benchmarks/fusion.py --markdown docs/speed.md`; do not edit it by hand. Measured with torch {torch}
on {device}, {threads} thread, on cores that other programs use as well{joined}.

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
batches of 16, of 197, 64 and 249 tokens 512 wide, to 512.
"""

GOALS = """
## Goals of single methods

At the shapes for which other libraries are known, against plain implementations that do what these do. `products` is
the time of the matrix products alone. Recurrent fusion (MFN; G11) has no method here yet.
"""

NOTES = """
## What misses its target

- Over products: the products alone find their tensors in the cache. Three linear layers with their biases, forward and
  backward through autograd and nothing else, take 1.2 of theirs already. `EvidentialFusion` spends most of the rest in
  torch's softplus, `MixtureOfProducts` in the Gaussians of all subsets.
- Low-rank fusion (G5): at rank 4 the three linear layers alone take more than half of the other's time; at ranks 16 and
  32 ours is little more than its products, and what the other takes depends on how fast memory is copied.
- Light fusions (G12): 15 of the 23 kernels of the plain `Concat` and 12 of the 41 of the plain `GatedFusion` are matrix
  products, which ours needs as well, and ours reads which modalities are absent, which the plain ones cannot.
"""

KINDS = (
    "time",
    "peak memory",
    "kernels",
    "time over its matrix products",
    "breaks in its graph",
    "compiled again over 8 lengths",
    "leak between samples",
)


def page(rows: Mapping[str, Row], methods: Iterable[str], goals: Iterable[str], *, joined: int) -> str:
    """The whole page.

    Args:
        rows: by name.
        methods: what the first table has a line for, where there are rows of it.
        goals: what the second table has lines for, in this order.
        joined: of how many earlier runs there are rows.
    """
    runs = f", in {joined} runs of parts (`--json`, `--join`)" if joined else ""
    limits = {"slower": SLOWER, "pooled": OVER_POOLED, "tokens": OVER_TOKENS}
    head = INTRODUCTION.format(**machine(), **limits, joined=runs)
    shown = [
        row
        for goal in goals
        for name, row in rows.items()
        if name.startswith(f"{goal}: ") and row.target is not None and "difference from plain" not in name
    ]
    return f"{head}\n{_methods(rows, methods)}\n{GOALS}\n{table(shown)}\n{NOTES}"


def _methods(rows: Mapping[str, Row], methods: Iterable[str]) -> str:
    lines = [
        "| method | time | peak | kernels | over products | graphs | leak |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*lines, *(_method(name, rows) for name in methods if f"{name}: time" in rows)])


def _method(name: str, rows: Mapping[str, Row]) -> str:
    time, peak, kernels, products, breaks, again, leak = (rows[f"{name}: {kind}"] for kind in KINDS)
    whole = _marked("broken", False) if breaks.met is False else _ratio(again, "g")
    cells = [_ratio(time), _ratio(peak), f"{kernels.ours:g}, {kernels.other:g}", _ratio(products), whole]
    return f"| {name} | {' | '.join(cells)} | {_ratio(leak, 'g')} |"


def _ratio(row: Row, form: str = ".2f") -> str:
    return _marked(f"{row.ratio:{form}}", row.met)


def _marked(text: str, met: bool | None) -> str:
    return f"**{text}**" if met is False else text
