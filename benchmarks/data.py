"""The path of data next to what people write by hand: images, sound, text, features, loading, memory.

    python benchmarks/data.py --quick
    python benchmarks/data.py --json out/data.json --markdown docs/data_speed.md

Everything is made in a temporary folder, and read in turn by us and by the other way, on one thread, in CPU time. Rows
of samples in a second say how many times as fast we are; rows of time and of memory, how much of the other's we need.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread there, too

import data_loading
import data_memory
import data_pictures
import data_rows
import data_sound
import torch
from common import Row, options, report
from data_measure import Setting
from data_page import page

# Memory comes first: it is that of a process that has done nothing else.
PARTS = {
    "Memory and start": data_memory,
    "Images and video": data_pictures,
    "Sound": data_sound,
    "Features, text, tables, series": data_rows,
    "Loading": data_loading,
}


def main() -> None:
    chosen = options(
        __doc__,
        only={"metavar": "REGEX", "default": "", "help": "only the cases whose name it finds"},
        rounds={"type": int, "default": 9, "help": "how often each runs in turn (default 9)"},
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


if __name__ == "__main__":
    main()
