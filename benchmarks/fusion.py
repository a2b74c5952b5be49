"""Every fusion next to a plain implementation of the same equation: time, peak memory, kernels, graphs, leaks.

    python benchmarks/fusion.py --quick
    python benchmarks/fusion.py --json out/fusion.json --markdown docs/speed.md

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
from fusion_page import page
from fusion_promises import promises
from torch import nn

from mmfuse.fusion import FUSIONS

TIMES = (197, 64, 249)
BATCHES = {"MulT": 2}  # at these widths it has 230 million parameters
SLOWER, OVER_POOLED, OVER_TOKENS = 1.05, 1.3, 1.5


def main() -> None:
    chosen = options(
        __doc__,
        only={"metavar": "REGEX", "default": "", "help": "only the methods and goals whose name it finds"},
        batch={"type": int, "default": 16, "help": "samples in a batch of token sequences (default 16)"},
        rounds={"type": int, "default": 9, "help": "how often each runs in turn (default 9)"},
        markdown={"type": Path, "metavar": "FILE", "help": "write the page with both tables"},
    )
    torch.set_num_threads(1)
    rounds = 3 if chosen.quick else chosen.rounds
    goals: list[Row] = []
    # The goals come first, in fresh memory: after much was freed, who builds large tensors need not fetch pages anew.
    for goal in GOALS:
        if re.search(chosen.only, goal.name):
            goals += goal_rows(goal, quick=chosen.quick, rounds=rounds)
            _say(goals[-1])
    methods = {name: method for name, method in FUSIONS.items() if re.search(chosen.only, name)}
    measured = {}
    for name, method in methods.items():
        measured[name] = method_rows(name, method, batch=chosen.batch, quick=chosen.quick, rounds=rounds)
        _say(measured[name]["time"])
    rows = [row for kinds in measured.values() for row in kinds.values()] + goals
    report(rows, to=chosen.json, quick=chosen.quick)
    if chosen.markdown:
        chosen.markdown.write_text(page(measured, goals, TIMES, chosen.batch, (SLOWER, OVER_POOLED, OVER_TOKENS)))


def method_rows(name: str, method: type[nn.Module], *, batch: int, quick: bool, rounds: int) -> dict[str, Row]:
    """Rows of one method by kind. Times of the small sizes of ``--quick`` have no target."""
    over = OVER_POOLED if getattr(method, "reads", "tokens") == "pooled" else OVER_TOKENS
    targets = {} if quick else {"time": SLOWER, "products": over}
    measured = measure(name, method_case(method, batch=batch, quick=quick), rounds=rounds, targets=targets)
    return {**measured, **promises(name, method, quick=quick)}


def method_case(method: type[nn.Module], *, batch: int, quick: bool) -> Case:
    batch = min(batch, BATCHES.get(method.__name__, batch))
    names = NAMES[: getattr(method, "num_modalities", len(NAMES))]
    pooled = getattr(method, "reads", "tokens") == "pooled"
    width, dim = (768, 512) if pooled else (512, 512)
    times = (1, 1, 1) if pooled else TIMES
    if quick:
        width, dim, times, batch = width // 8, dim // 8, tuple(max(time // 10, 1) for time in times), 4
    sizes = {name: (time, width) for name, time in zip(names, times, strict=False)}
    return case(lambda dims: method(dims, dim), sizes, 64 if pooled else batch)


def _say(row: Row) -> None:
    print(f"{row.name}: {row.ratio:.2f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
