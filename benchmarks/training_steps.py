"""G1 and G2: a step of ours against the same model in loops written by hand."""

import statistics

from common import Row
from data_measure import Case, Setting
from training_loops import loops_of
from training_models import nothing, three_modalities
from training_turns import in_turns, quartiles

FREE_US = 150  # what a step of ours may cost beyond the hand-written one where nothing is computed


def three(setting: Setting) -> list[Row]:
    model, batches = three_modalities()
    rounds, steps = (5, 2) if setting.quick else (40, 4)
    seconds = in_turns(loops_of(model), batches, rounds=rounds, steps=steps)
    return [
        step_row(_name("three transformers", ours, other), seconds, ours, other, setting.target(limit))
        for other, limit in {"hand-written": 1.02, "naive": 0.90}.items()
        for ours in ("fit", "train_epoch")
    ]


def empty(setting: Setting) -> list[Row]:
    model, batches = nothing()
    rounds, steps = (9, 20) if setting.quick else (60, 40)
    seconds = in_turns(loops_of(model), batches, rounds=rounds, steps=steps)
    limit = setting.target(round(max(1.05, 1 + FREE_US / 1e6 / statistics.median(seconds["hand-written"])), 2))
    pairs = {("fit", "hand-written"): limit, ("train_epoch", "hand-written"): limit, ("fit", "naive"): None}
    return [
        step_row(_name("empty model", ours, other), seconds, ours, other, target)
        for (ours, other), target in pairs.items()
    ]


def _name(model: str, ours: str, other: str) -> str:
    return f"a step, {model}: {ours} to the {other} loop"


def step_row(name: str, seconds: dict[str, list[float]], ours: str, other: str, limit: float | None) -> Row:
    """One loop to another, round by round."""
    lower, middle, upper = quartiles(seconds[ours], seconds[other])
    mine, others = (1e3 * statistics.median(seconds[loop]) for loop in (ours, other))
    note = f"{1e3 * (mine - others):+.0f} us; quartiles {lower:.3f} to {upper:.3f}"
    return Row(name, mine, others, middle, limit, note=note)


CASES: dict[str, Case] = {"step of three transformers": three, "step of the empty model": empty}
