"""The path of data next to what people write by hand: images, sound, text, features, loading, memory.

    python benchmarks/data.py --quick
    python benchmarks/data.py --json out/data.json --markdown docs/data_speed.md

Everything is made in a temporary folder, and read in turn by us and by the other way, on one thread, in CPU time. Rows
of samples in a second say how many times as fast we are; rows of time and of memory, how much of the other's we need.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread there, too

import data_loading
import data_memory
import data_pictures
import data_rows
import data_sound
from data_page import page
from parts import run_parts

# Memory comes first: it is that of a process that has done nothing else.
PARTS = {
    "Memory and start": data_memory,
    "Images and video": data_pictures,
    "Sound": data_sound,
    "Features, text, tables, series": data_rows,
    "Loading": data_loading,
}


def main() -> None:
    run_parts(__doc__, PARTS, page)


if __name__ == "__main__":
    main()
