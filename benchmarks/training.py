"""Training next to loops written by hand: time of a step, memory, waits, and what stands beside the loop.

    python benchmarks/training.py --quick
    python benchmarks/training.py --json out/training.json --markdown docs/training_speed.md

Loops are trained in turn in one process, a few steps each, on one thread, and only ratios of CPU time (on a GPU: of the
clock) are of interest. Rows that count are the same on every machine.
"""

import os
import sys

import training_absent
import training_caching
import training_checkpoints
import training_counts
import training_digits
import training_padding
import training_processes
import training_steps
from parts import run_parts
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
    run_parts(__doc__, PARTS, page)


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
