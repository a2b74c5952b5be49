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
    limits = {"hand-written": 1.02, "naive": 0.90}
    return [
        _row(setting, "three transformers", ours, other, seconds, limits[other])
        for other in ("hand-written", "naive")
        for ours in ("fit", "train_epoch")
    ]


def empty(setting: Setting) -> list[Row]:
    model, batches = nothing()
    rounds, steps = (9, 20) if setting.quick else (60, 40)
    seconds = in_turns(loops_of(model), batches, rounds=rounds, steps=steps)
    limit = max(1.05, 1 + FREE_US / 1e6 / statistics.median(seconds["hand-written"]))
    return [
        *(_row(setting, "empty model", ours, "hand-written", seconds, limit) for ours in ("fit", "train_epoch")),
        _row(setting, "empty model", "fit", "naive", seconds, None),
    ]


def _row(
    setting: Setting, model: str, ours: str, other: str, seconds: dict[str, list[float]], limit: float | None
) -> Row:
    lower, middle, upper = quartiles(seconds[ours], seconds[other])
    mine, others = (1e3 * statistics.median(seconds[name]) for name in (ours, other))
    note = f"{1e3 * (mine - others):+.0f} us; quartiles {lower:.3f} to {upper:.3f}"
    return Row(f"a step, {model}: {ours} to the {other} loop", mine, others, middle, setting.target(limit), note=note)


CASES: dict[str, Case] = {"step of three transformers": three, "step of the empty model": empty}
