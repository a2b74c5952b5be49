"""Every fusion next to a plain implementation of the same equation: time, peak memory, kernels, graphs, leaks.

    python benchmarks/fusion.py --quick
    python benchmarks/fusion.py --json out/fusion.json --markdown docs/speed.md
    python benchmarks/fusion.py --only MulT --json out/mult.json
    python benchmarks/fusion.py --only '^$' --join out/fusion.json out/mult.json --markdown docs/speed.md

Each method is built as ``Method(dims, dim)`` with its defaults and without dropout, and its plain counterpart under
``benchmarks/plain/`` computes the same with the same parameters. First both must agree in float64; then forward and
backward run in turn, on one thread.
"""

import re
import sys
from pathlib import Path

import torch
from common import Row, options, report
from fusion_cases import NAMES, Case, case
from fusion_goals import GOALS, goal_rows
from fusion_measure import measure
from fusion_page import OVER_POOLED, OVER_TOKENS, SLOWER, page
from fusion_promises import promises
from joining import rows_of
from torch import nn

from mmfuse.fusion import FUSIONS

BATCH, TIMES = 16, (197, 64, 249)  # of sequences


def main() -> None:
    chosen = options(
        __doc__,
        only={"metavar": "REGEX", "default": "", "help": "only the methods and goals whose name it finds"},
        rounds={"type": int, "default": 9, "help": "how often each runs in turn (default 9)"},
        join={"type": Path, "nargs": "+", "default": [], "metavar": "FILE", "help": "rows of earlier runs, by --json"},
        markdown={"type": Path, "metavar": "FILE", "help": "write the page with both tables"},
    )
    torch.set_num_threads(1)
    rounds = 3 if chosen.quick else chosen.rounds
    rows = rows_of(chosen.join)
    # The goals come first, in fresh memory: after much was freed, who builds large tensors need not fetch pages anew.
    for goal in GOALS:
        if re.search(chosen.only, goal.name):
            _add(rows, goal_rows(goal, quick=chosen.quick, rounds=rounds))
    for name, method in FUSIONS.items():
        if re.search(chosen.only, name):
            _add(rows, method_rows(name, method, quick=chosen.quick, rounds=rounds))
    report(list(rows.values()), to=chosen.json, quick=chosen.quick)
    if chosen.markdown:
        chosen.markdown.write_text(page(rows, FUSIONS, [goal.name for goal in GOALS], joined=len(chosen.join)))


def method_rows(name: str, method: type[nn.Module], *, quick: bool, rounds: int) -> list[Row]:
    """The rows of one method. Times of the small sizes of ``--quick`` have no target."""
    over = OVER_POOLED if getattr(method, "reads", "tokens") == "pooled" else OVER_TOKENS
    targets = {} if quick else {"time": SLOWER, "products": over}
    measured = measure(name, method_case(method, quick=quick), rounds=rounds, targets=targets)
    return [*measured.values(), *promises(name, method, quick=quick).values()]


def method_case(method: type[nn.Module], *, quick: bool) -> Case:
    names = NAMES[: getattr(method, "num_modalities", len(NAMES))]
    pooled = getattr(method, "reads", "tokens") == "pooled"
    batch, width, dim, times = (64, 768, 512, (1, 1, 1)) if pooled else (BATCH, 512, 512, TIMES)
    if quick:
        width, dim = width // 8, dim // 8
        batch, times = (batch, times) if pooled else (4, tuple(time // 10 for time in times))
    sizes = {name: (time, width) for name, time in zip(names, times, strict=False)}
    return case(lambda dims: method(dims, dim), sizes, batch)


def _add(rows: dict[str, Row], new: list[Row]) -> None:
    rows |= {row.name: row for row in new}
    time = next(row for row in new if row.name.endswith(": time"))
    print(f"{time.name}: {time.ratio:.2f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
