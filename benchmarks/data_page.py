"""docs/data_speed.md, made from the rows of benchmarks/data.py."""

import importlib.metadata
import os
import textwrap
from collections.abc import Mapping, Sequence

from common import Row, machine, table

VERSIONS = (
    "torchvision",
    "torchaudio",
    "pillow",
    "torchcodec",
    "soundfile",
    "soxr",
    "av",
    "transformers",
    "tokenizers",
)

INTRODUCTION = """# Speed of the data path

Made by `python benchmarks/data.py --markdown docs/data_speed.md`; do not edit it by hand. Measured on {device},
{cores} cores that other programs use as well, {threads} thread, with torch {torch},
{versions}.

Files are made by the script: photos of noise with as many bits a pixel as photos have (JPEG, quality 90), sound of
tones and noise, an H.264 clip. Ours and the other way (`benchmarks/plain/data_*.py`) run in turn in one process, and
only ratios of CPU time are of interest. Rows in `/s` are samples in a second on one core, and say how many times as
fast ours is, with a target of `>=`; rows in ms, s, MiB or bytes say how much of the other's ours takes, and their
target is an upper limit. A `no` is a target that was missed.
"""

NOTES = {
    "Memory and start": """
Private memory (USS) of a worker that has read every row of a CSV file of four columns, or every sample of shards. What
a table holds is shared by all workers.
""",
    "Images and video": """
Our loader hands out uint8, and the encoder normalises on its device: that is what the targets are for. In the rows
`with normalising` both end with a batch of normalised floats, and our encoder's part runs on the CPU and counts. Crops
of 8 to 100 % are the default of v2, crops of 80 to 100 % that of our encoders. torchcodec decodes ours where it is
installed (`mmfuse[images]`). In the rows without it Pillow decodes on both sides, which takes half of our time; the
targets suppose a decoder that hands out tensors. Decoding alone is Pillow's, at the smallest scale of the JPEG decoder
that keeps 256 pixels.
""",
    "Sound": """
Five seconds, one channel, 44.1 to 16 kHz; `normalised` is zero mean and unit variance in both. Ours looks for NaN, too.
Where soxr is missing, torchaudio's filter is made once and kept; it is longer than torchaudio's own, to be as sharp as
soxr's. flac, mp3 and ogg have no target: most of their time is the decoder's.
""",
    "Features, text, tables, series": """
Features: two modalities of 768 numbers, batches of 256 unless said otherwise. With a worker, the time of the clock
counts, the best of all rounds; a batch costs the worker much the same whatever it holds, so that small ones (32 is what
`load_batches` makes unless told otherwise) are further apart than large ones, in which both are busy copying. Series:
forward and backward, 32 samples of 100 to 500 steps of 8 channels, 32 wide; torch runs an LSTM on the CPU as one
operation, and a GRU step by step, which is why it has no target.
""",
    "Loading": """
Epochs of four batches of 16. `load_batches` with presence, masks, labels, seeds of each row and the check for NaN,
against the same transform and `torch.stack` or `pad_sequence`. Waiting: `fit` writes `wait_share` into its history;
here a worker shares its core with training.
""",
}


def page(parts: Mapping[str, Sequence[Row]]) -> str:
    """The whole page."""
    versions = ", ".join(f"{name} {_version(name)}" for name in VERSIONS)
    head = INTRODUCTION.format(**machine(), cores=os.cpu_count(), versions="\n".join(textwrap.wrap(versions, 118)))
    tables = [f"## {title}\n{NOTES[title]}\n{table(rows)}\n" for title, rows in parts.items() if rows]
    return "\n".join([head, *tables])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
