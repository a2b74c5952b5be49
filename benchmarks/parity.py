"""Which fusions can learn parity at all, and from how many samples: what the zeros of the comparison mean.

    python benchmarks/parity.py --quick
    python benchmarks/parity.py --json out/parity.json --markdown docs/parity.md    # half an hour on one core

Three modalities, each a vector that shows one bit; the label is the parity of the three bits, flipped with probability
0.05, so that 95 % is the best possible, and 50 % is all that a sum of the modalities can give. Every method is built
with its defaults at width 64 and trained for six epochs on more and more samples, until it is through.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import Row, machine, options, report
from comparison import accuracy, logits, model_of, train
from comparison_encoders import Problem

from mmfuse.data import make_synthetic
from mmfuse.fusion import FUSIONS

SAMPLES = (2_000, 16_000)
THROUGH = 0.9
HEAD = """# Who can multiply

Made by `python benchmarks/parity.py --markdown docs/parity.md`: run it again, do not edit this.

In [the comparison](comparison.md) many methods are at 50 % where the answer is the parity of three bits, one in each
modality. Not all for one reason. A method that adds up what the modalities say cannot learn it from any number of
samples: that is its equation. Others can, but find nothing to climb at first: gradient descent stands on a plateau,
which ends the later the more must fit together. Here everything that is not the fusion is taken away: three vectors,
nothing absent in training, and more and more samples, six epochs of each, until a method is through (90 % on the test
samples; 95 % is the best possible). One seed; where a plateau ends is partly chance.

Of those that are never through, `WeightedAverage`, `LateFusion`, `EmbraceNet` and `EvidentialFusion` add by their
equations, and `FiLM` multiplies no more than two modalities at once. `AttentionFusion` and `MixtureOfProducts` weigh a
modality by how it compares with the others, which is a product in principle, and `BottleneckFusion` lets all modalities
meet in a few tokens: that they have not found the answer here does not show that they cannot.

{machine}

| method | {heads} | |
|---|{rules}---|
{lines}
"""


def main() -> None:
    chosen = options(
        __doc__,
        methods={"default": ".", "metavar": "REGEX", "help": "which methods"},
        markdown={"type": Path, "metavar": "FILE", "help": "write the table as a page, too"},
    )
    torch.set_num_threads(1)
    sizes = (200,) if chosen.quick else SAMPLES
    found: dict[str, list[float]] = {}
    for name, make in FUSIONS.items():
        if re.search(chosen.methods, name):
            found[name] = scores_of(make, sizes)
            print(f"{name}: {' '.join(f'{100 * score:.1f}' for score in found[name])}", file=sys.stderr, flush=True)
    report([_row(name, scores, sizes) for name, scores in found.items()], to=chosen.json, quick=chosen.quick)
    if chosen.markdown:
        chosen.markdown.write_text(page(found, sizes, machine()), encoding="utf-8")


def scores_of(make: Any, sizes: Sequence[int]) -> list[float]:
    """The test accuracy of a method trained on so many samples; those after the first that is enough are left out."""
    scores: list[float] = []
    for size in sizes:
        if scores and scores[-1] >= THROUGH:
            break
        problem = parity(size)
        model = model_of(make, problem, seed=0)
        model.missing = None  # parity has nothing to learn where a bit is absent
        scores.append(accuracy(logits(train(problem, model, seed=0), problem.test), problem.test))
    return scores


def parity(samples: int) -> Problem:
    settings: dict[str, Any] = {"modalities": {"a": 1, "b": 1, "c": 1}, "dim": 4, "flip": 0.05}
    learned = make_synthetic("synergy", samples, seed=0, **settings)
    asked = make_synthetic("synergy", 3000, seed=1, **settings)
    best = asked.bayes_accuracy()
    return Problem(learned.batch, asked.batch, learned.num_classes, epochs=6, batch_size=32, best=best)


def page(found: Mapping[str, Sequence[float]], sizes: Sequence[int], made_on: Mapping[str, Any]) -> str:
    """One line a method: those that are through first come first."""
    order = sorted(found, key=lambda name: (found[name][-1] < THROUGH, len(found[name]), name))
    lines = []
    for name in order:
        cells = [f"{100 * score:.1f}" for score in found[name]]
        cells += [""] * (len(sizes) - len(cells))
        said = "" if found[name][-1] < THROUGH else f"from {sizes[len(found[name]) - 1]:,} samples"
        lines.append(f"| [`{name}`](fusion.md#{name.lower()}) | {' | '.join(cells)} | {said} |")
    return HEAD.format(
        machine=f"torch {made_on['torch']}, {made_on['device']}.",
        heads=" | ".join(f"{size:,}" for size in sizes),
        rules="---:|" * len(sizes),
        lines="\n".join(lines),
    )


def _row(name: str, scores: Sequence[float], sizes: Sequence[int]) -> Row:
    at = f"of {sizes[len(scores) - 1]:,} samples"
    return Row(f"parity: {name}", scores[-1], 0.95, scores[-1] / 0.95, unit="", note=at, at_least=True)


if __name__ == "__main__":
    main()
