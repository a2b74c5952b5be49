"""docs/training_speed.md, made from the rows of benchmarks/training.py."""

import os
from collections.abc import Mapping, Sequence

from common import Row, machine, table

INTRODUCTION = """# Speed of training

Made by `python benchmarks/training.py --markdown docs/training_speed.md`; do not edit it by hand. Measured on {device},
{cores} cores that other programs use as well, {threads} thread, with torch {torch}.

Only ratios are of interest: whatever is compared runs in turn in one process, in CPU time (on a GPU: by the clock).
A `no` is a target that was missed. Rows without a unit are counts, and the same on every machine.
"""

NOTES = {
    "A step": """
Each loop trains in a thread of its own, and a baton passes after every few steps. *Hand-written* is the loop that one
should write: fused AdamW that decays matrices only, clipping, and the loss added up on the device and read every 50
steps. *Naive* is the one of tutorials: AdamW as it comes, nothing clipped, nothing logged. All train the same model,
with a copy of their own: ViT, BERT and wav2vec2 of transformers, 64 wide with two layers each, and cross-attention, on
batches of 8; or a model that multiplies vectors, where what takes time is the loop itself. `fit` has its bar, schedule,
meter and checks.

malloc keeps what is freed: else, whether it gives the heap back in each step is an accident of addresses that moves any
of these loops by a tenth (`MALLOC_TRIM_THRESHOLD_` and `MALLOC_MMAP_THRESHOLD_` help your own runs on a CPU as much).
""",
    "Waiting and memory": """
A wait is a number that Python reads from the device, or a shape that depends on values: on a GPU, a stop until all work
is done. The three transformers wait themselves too, in masks of the transformers library. Growth in tensors counts the
bytes of all tensors that are still held, exactly; growth of the process is its private memory.
""",
    "A whole training": """
Handwritten digits of scikit-learn, cut into three strips, and low-rank fusion; `train_epoch` and a loop by hand from
the same seeds, with an evaluation after every epoch.
""",
    "Padding": """
Lengths drawn as those of known data sets; the share of all steps of an epoch, random order at 32 rows a batch. Two
modalities count by their steps together, sound in frames of 20 ms. Time: BERT, 256 wide with 4 layers, batches of 16.
""",
    "What is absent": """
Forward and backward of a small ViT on 16 images of 96 pixels, some of them absent, inside `SkipAbsent`, and without it.
""",
    "Frozen encoders": """
Encoders that are frozen run once (`cache_features`), and epochs read their features. How much that gives depends on
the sizes of encoders and fusion: here base encoders on a CPU, in batches of two, and fusions 256 wide. The goal of 35
was set for cross-attention in which text reads the others. Where all 510 tokens of a sample read all others, the
fusion's matrix products alone take about a thirty-fifth of the encoders' time; how much it takes beside them is told,
too.
Reading is by batches of 64 pooled vectors.
""",
    "Several processes": """
DDP in one process that has met nobody else: its own cost, without any network. Traffic is what a hook of DDP is given.
""",
    "Checkpoints": """
A model with a third of its layers frozen, and AdamW. The stall is what `Checkpoints.save` takes of the thread that
trains; files are written by another. A frozen weight is written once, beside the checkpoints.
""",
}


def page(parts: Mapping[str, Sequence[Row]]) -> str:
    """The whole page."""
    head = INTRODUCTION.format(**machine(), cores=os.cpu_count())
    tables = [f"## {title}\n{NOTES[title]}\n{table(rows)}\n" for title, rows in parts.items() if rows]
    return "\n".join([head, *tables])
