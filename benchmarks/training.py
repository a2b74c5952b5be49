"""Training next to loops written by hand: time of a step, memory, waits, and what stands beside the loop.

    python benchmarks/training.py --quick
    python benchmarks/training.py --json out/training.json --markdown docs/training_speed.md

Loops are trained in turn in one process, a few steps each, on one thread, and only ratios of CPU time (on a GPU: of the
clock) are of interest. Rows that count are the same on every machine.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import torch
import training_absent
import training_caching
import training_checkpoints
import training_counts
import training_digits
import training_padding
import training_processes
import training_steps
from common import Row, options, report
from data_measure import Setting
from training_page import page

PARTS = {
    "A step": training_steps,
    "Waiting and memory": training_counts,
    "A whole training": training_digits,
    "Padding": training_padding,
    "What is absent": training_absent,
    "Frozen encoders": training_caching,
    "Several processes": training_processes,
    "Checkpoints": training_checkpoints,
}


def main() -> None:
    chosen = options(
        __doc__,
        only={"metavar": "REGEX", "default": "", "help": "only the cases whose name it finds"},
        rounds={"type": int, "default": 9, "help": "how often single calls run in turn (default 9)"},
        markdown={"type": Path, "metavar": "FILE", "help": "write the page with all tables"},
    )
    torch.set_num_threads(1)
    made: dict[str, list[Row]] = {title: [] for title in PARTS}
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), chosen.quick, 3 if chosen.quick else chosen.rounds)
        for title, part in PARTS.items():
            for name, case in part.CASES.items():
                if re.search(chosen.only, name):
                    made[title] += case(setting)
                    print(f"{made[title][-1].name}: {made[title][-1].ratio:.2f}", file=sys.stderr, flush=True)
    report([row for rows in made.values() for row in rows], to=chosen.json, quick=chosen.quick)
    if chosen.markdown:
        chosen.markdown.write_text(page(made))


def keep_freed_memory() -> None:
    """Begin again with a malloc that keeps what is freed, for all threads together.

    As it comes, glibc gives the top of its heap back whenever nothing stands above. Whether that happens once in a
    step or never is an accident of addresses, and moves the time of a step by a tenth, in loops by hand as in ours.
    """
    kept = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
    if not kept.keys() <= os.environ.keys():
        os.execve(sys.executable, sys.orig_argv, {**kept, **os.environ})


if __name__ == "__main__":
    keep_freed_memory()
    main()
