"""Every fusion method on the same features, with all modalities and with some removed at test time.

    python benchmarks/comparison.py --quick                       # made-up data only, two epochs, under a minute
    python benchmarks/comparison.py --data FOLDER --markdown docs/comparison.md     # everything, an hour on two cores

Encoders are trained on one modality each and frozen, so that methods differ in nothing but the fusion. Every method is
trained alike, with its defaults at width 64 and modality dropout, for a fixed number of epochs: no test sample has a
say in anything. Two things stand beside them: the best single modality, and the late mean of the single models' logits.
A method for two modalities fuses the first two, then the result with the next, and so on.
"""

import json
import os
import re
import time
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import reduce
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from common import Row, machine, options, report
from comparison_encoders import WIDTH, Problem, Samples
from comparison_methods import code_of, known
from comparison_pages import write_page
from comparison_problems import MADE_UP, PROBLEMS, REAL
from torch import nn

from mmfuse import Batch, MultimodalModel
from mmfuse.encoders import FeatureEncoder
from mmfuse.fusion import EvidentialFusion, LateFusion, Nested, WeightedAverage
from mmfuse.missing import ModalityDropout
from mmfuse.tasks import Classification, EachModality, EvidentialClassification
from mmfuse.training import fit

REMOVED = (0.0, 0.3, 0.6)
DROPOUT = 0.2
GOALS = {"UTD-MHAD": (0.833, 0.05), "AV digits": (None, 0.10)}  # an accuracy, and points over the best single
OTHERS = {"single", "late mean", "Bayes"}  # what stands beside the methods; single modalities are "only NAME"
Score = dict[str, list[float]]  # for each method, the accuracy at each share of removed modalities


def main() -> None:
    chosen = options(
        __doc__,
        data={"type": Path, "help": "folder with the data sets handwritten, utd_mhad and avdigits"},
        problems={"default": ".", "metavar": "REGEX", "help": "which problems"},
        methods={"default": ".", "metavar": "REGEX", "help": "which methods"},
        own={"type": Path, "metavar": "FILE", "help": "a file with fusions of your own, to be compared too"},
        seeds={"type": int, "default": 3, "help": "how many"},
        jobs={"type": int, "default": 2, "help": "processes"},
        folder={"type": Path, "default": Path("runs/comparison"), "help": "where finished parts are kept"},
        markdown={"type": Path, "metavar": "FILE", "help": "write the tables as a page, too"},
    )
    names = [name for name in PROBLEMS if re.search(chosen.problems, name) and (chosen.data or name not in REAL)]
    names = [name for name in names if name in MADE_UP][:2] if chosen.quick else names
    methods = [name for name in known(chosen.own) if re.search(chosen.methods, name)]
    seeds = range(1 if chosen.quick else chosen.seeds)
    units = [(name, seed, methods, chosen) for seed in seeds for name in reversed(names)]
    with ProcessPoolExecutor(chosen.jobs, get_context("spawn")) as pool:
        scores = list(pool.map(compare, units))
    results: dict[str, list[Score]] = {}
    for (name, *_), score in zip(units, scores, strict=True):
        results.setdefault(name, []).append(score)
    results = {name: results[name] for name in names}
    report(rows(results), to=chosen.json, quick=chosen.quick)
    if chosen.markdown:
        write_page(chosen.markdown, results, REMOVED, machine())


def compare(unit: tuple[str, int, list[str], Any]) -> Score:
    """All methods on one problem with one seed; what a run before has finished is not done again."""
    name, seed, methods, chosen = unit
    torch.set_num_threads(1)
    make_of = known(chosen.own)
    codes = {method: code_of(make_of.get(method, WeightedAverage)) for method in ("single", *methods)}
    kept = chosen.folder / f"{name.replace(' ', '_')}_{seed}{'_quick' if chosen.quick else ''}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    problem, scores = None, {}
    for method, code in codes.items():
        if done.get(method, {}).get("code") != code:
            began = time.process_time()
            problem = problem or PROBLEMS[name](chosen.data or chosen.folder, seed, quick=chosen.quick)
            made = singles(problem, seed) if method == "single" else {method: score(problem, make_of[method], seed)}
            done[method] = {"code": code, "scores": made, "seconds": time.process_time() - began}
            kept.write_text(json.dumps(done, indent=1))
            print(f"{name}, seed {seed}: {method} {made[method][0]:.3f}", flush=True)
        scores |= done[method]["scores"]
    return scores


def score(problem: Problem, make: Any, seed: int) -> list[float]:
    """The test accuracy of one method at each share of removed modalities."""
    model = train(problem, model_of(make, problem, seed), seed)
    return [accuracy(logits(model, test), test) for test in tests(problem, seed)]


def singles(problem: Problem, seed: int) -> Score:
    """Models of one modality each: the best of them, and the mean of their logits over the present."""
    alone = {name: only(problem, [name]) for name in problem.dims}
    models = {name: train(own, model_of(WeightedAverage, own, seed), seed) for name, own in alone.items()}
    scores: Score = {f"only {name}": [] for name in models} | {"late mean": []}
    for test in tests(problem, seed):
        every = {name: logits(model, keep(test, [name])) for name, model in models.items()}
        for name, each in every.items():
            scores[f"only {name}"].append(accuracy(each, test))
        present = {name: test.inputs[name].present[:, None] for name in models}
        mean = sum(torch.where(present[name], each, 0.0) for name, each in every.items())
        scores["late mean"].append(accuracy(mean, test))
    best = max(scores[f"only {name}"][0] for name in models)
    scores["single"] = next(s for n, s in scores.items() if n != "late mean" and s[0] == best)
    if problem.best is not None:
        scores["Bayes"] = [problem.best]
    return scores


def model_of(make: Any, problem: Problem, seed: int) -> MultimodalModel:
    """A method with its defaults, and the task that belongs to it."""
    torch.manual_seed(seed)
    dims, classes = problem.dims, problem.classes
    task: nn.Module = Classification(WIDTH, classes)
    if make is LateFusion:
        task = EachModality(task, dims)
    if make is EvidentialFusion:
        task = EvidentialClassification(classes, annealing=200)
    width = classes if make is EvidentialFusion else WIDTH
    encoders = {name: FeatureEncoder(dim) for name, dim in dims.items()}
    return MultimodalModel(encoders, fusion_of(make, dims, width), {"label": task}, missing=ModalityDropout(DROPOUT))


def fusion_of(make: Any, dims: Mapping[str, int], width: int) -> nn.Module:
    """The method over all modalities; one of two takes them in pairs, from the first to the last."""
    if len(dims) <= getattr(make, "num_modalities", len(dims)):
        return make(dims, width)
    first, *others = dims
    names = iter(f"pair{i}" for i in range(len(others)))

    def join(inner: tuple[str, nn.Module | None], other: str) -> tuple[str, nn.Module | None]:
        name, fusion = inner
        both = {name: dims[name] if fusion is None else width, other: dims[other]}
        made = make(both, width)
        return next(names), made if fusion is None else Nested({name: fusion}, made)

    return reduce(join, others, (first, None))[1]  # type: ignore[return-value]


def train(problem: Problem, model: MultimodalModel, seed: int) -> MultimodalModel:
    samples = Samples(problem.train, problem.batch_size, shuffle=True, epoch=1000 * seed)
    fit(model, samples, epochs=problem.epochs, learning_rate=2e-3, weight_decay=0.05, seed=seed, progress=False,
        device="cpu")  # fmt: skip
    return model.eval()


def logits(model: MultimodalModel, batch: Batch) -> torch.Tensor:
    """What decides: the decoded answers."""
    task: Any = model.tasks["label"]
    with torch.inference_mode():
        every = [model(part) for part in Samples(batch, 256)]
    return torch.cat([task.decode(output.predictions["label"]).clamp_min(1e-9).log() for output in every])


def accuracy(scores: torch.Tensor, batch: Batch) -> float:
    return (scores.argmax(dim=1) == batch.targets["label"].values).double().mean().item()


def tests(problem: Problem, seed: int) -> Iterable[Batch]:
    """The test samples, with each modality removed with each probability; one modality always stays."""
    for share in REMOVED:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {share}".encode()))
        draw = torch.rand(len(problem.test.targets["label"].values), len(problem.dims), generator=generator)
        kept = (draw >= share) | (draw == draw.amax(dim=1, keepdim=True))
        inputs = {
            name: replace(problem.test.inputs[name], present=problem.test.inputs[name].present & kept[:, place])
            for place, name in enumerate(problem.dims)
        }
        yield replace(problem.test, inputs=inputs)


def only(problem: Problem, names: list[str]) -> Problem:
    return replace(problem, train=keep(problem.train, names), test=keep(problem.test, names))


def keep(batch: Batch, names: list[str]) -> Batch:
    return replace(batch, inputs={name: batch.inputs[name] for name in names})


def is_method(name: str) -> bool:
    """Whether a score is that of a fusion, and not of what stands beside them."""
    return name not in OTHERS and not name.startswith("only ")


def rows(results: Mapping[str, list[Score]]) -> list[Row]:
    """For each problem and method, accuracy beside the best single modality; and the targets on real data."""
    made = []
    for problem, scores in results.items():
        mean = {name: sum(s[name][0] for s in scores) / len(scores) for name in scores[0]}
        fused = {name: value for name, value in mean.items() if name == "late mean" or is_method(name)}
        for name, value in fused.items():
            made.append(Row(f"{problem}: {name}", value, mean["single"], value / mean["single"], unit=""))
        least, points = GOALS.get(problem, (None, None))
        goals = {f"{least}": least} if least else {}
        goals |= {f"best single + {points}": mean["single"] + points} if points else {}
        best = max(set(fused) - OTHERS, key=lambda name: fused[name])
        made += [
            Row(f"{problem}: best, over {text}", fused[best], value, fused[best] / value, 1.0, "", best, at_least=True)
            for text, value in goals.items()
        ]
    return made


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
