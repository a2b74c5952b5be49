"""docs/comparison.md: the tables of the comparison."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfuse.fusion import FUSIONS

HEAD = """# The methods beside each other

Made by `python benchmarks/comparison.py --data FOLDER --markdown docs/comparison.md`: run it again, do not edit this.

Test accuracy in percent, mean and standard deviation over {seeds} seeds, with all modalities and with 30 and 60 % of
them removed from the test samples at random (one always stays). Encoders are trained on one modality each and frozen;
every method reads the same features, has width 64 and its defaults otherwise, and is trained alike, with modality
dropout 0.2, for a fixed number of epochs. *Best single* is the best model of one modality, *late mean* the mean of the
single models' logits. Methods for two modalities fuse pair after pair (`Nested`). Differences within two deviations say
nothing, and a method tuned for a problem does better than its defaults: read this as a map, not as a ranking.

{machine}
"""


def write_page(path: Path, results: Mapping[str, Sequence[Mapping[str, list[float]]]], removed: Sequence[float],
               machine: Mapping[str, Any]) -> None:  # fmt: skip
    """One table a problem, the best method first."""
    seeds = len(next(iter(results.values())))
    made_on = f"torch {machine['torch']}, {machine['device']}."
    parts = [HEAD.format(seeds=seeds, machine=made_on)]
    parts += [_overview(results)]
    for problem, scores in results.items():
        parts.append(f"## {problem}\n\n{_note(scores)}{_table(scores, removed)}")
    path.write_text("\n".join(parts), encoding="utf-8")


def _overview(results: Mapping[str, Sequence[Mapping[str, list[float]]]]) -> str:
    """Every method on every problem, with all modalities."""
    lines = ["## Everything, with all modalities", "", "| method | " + " | ".join(results) + " |"]
    lines.append("|---|" + "---:|" * len(results))
    names = ["single", "late mean", *sorted(name for name in next(iter(results.values()))[0] if name in FUSIONS)]
    best = {p: max(_mean(s, n, 0) for n in names if n in s[0]) for p, s in results.items()}
    for name in names:
        cells = []
        for problem, scores in results.items():
            if name not in scores[0]:
                cells.append("")
                continue
            value = _mean(scores, name, 0)
            cells.append(f"**{100 * value:.1f}**" if value == best[problem] else f"{100 * value:.1f}")
        lines.append(f"| {_label(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _table(scores: Sequence[Mapping[str, list[float]]], removed: Sequence[float]) -> str:
    lines = ["| method | " + " | ".join(f"{share:.0%} removed" for share in removed) + " |"]
    lines.append("|---|" + "---:|" * len(removed))
    names = [name for name in scores[0] if name in FUSIONS or name in ("single", "late mean")]
    for name in sorted(names, key=lambda name: -_mean(scores, name, 0)):
        cells = [
            f"{100 * _mean(scores, name, i):.1f} ± {100 * _spread(scores, name, i):.1f}" for i in range(len(removed))
        ]
        lines.append(f"| {_label(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _note(scores: Sequence[Mapping[str, list[float]]]) -> str:
    alone = ", ".join(
        f"{name.removeprefix('only ')} {100 * _mean(scores, name, 0):.1f}"
        for name in scores[0]
        if name.startswith("only ")
    )
    known = f" The best possible is {100 * _mean(scores, 'Bayes', 0):.1f}." if "Bayes" in scores[0] else ""
    return f"Single modalities: {alone}.{known}\n\n"


def _percent(scores: Sequence[Mapping[str, list[float]]], name: str, place: int) -> str:
    return f"{100 * _mean(scores, name, place):.1f} ± {100 * _spread(scores, name, place):.1f}"


def _label(name: str) -> str:
    return {"single": "*best single*", "late mean": "*late mean*"}.get(name, f"[`{name}`](fusion.md#{name.lower()})")


def _mean(scores: Sequence[Mapping[str, list[float]]], name: str, place: int) -> float:
    return statistics.mean(score[name][place] for score in scores)


def _spread(scores: Sequence[Mapping[str, list[float]]], name: str, place: int) -> float:
    return statistics.stdev([score[name][place] for score in scores]) if len(scores) > 1 else 0.0
