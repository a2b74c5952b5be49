"""The picture of a study: what was tried and what was pruned, and how the score depends on each parameter."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from digit_arithmetic_pictures import COLOURS, GREY
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

STRIPS = {"fusion": "fusion", "width": "width of the encoders", "dim": "width of the fusion"}


def draw_study(study: Study, path: Path) -> None:
    """Draw the scores in their order, the learning curves, and the scores by each parameter; a cross is pruned."""
    trials = [trial for trial in study.trials if trial.intermediate_values and trial.state.is_finished()]
    fusions = sorted({trial.params["fusion"] for trial in trials})
    colours = dict(zip(fusions, itertools.cycle(COLOURS), strict=False))
    figure = _new_figure()
    (order, curves, rates), strips = figure.subplots(2, 3)
    _draw_order(order, trials, colours)
    _draw_curves(curves, trials, colours)
    _draw_rates(rates, trials, colours)
    for panel, (name, title) in zip(strips, STRIPS.items(), strict=True):
        _draw_strip(panel, trials, name, title, colours)
    handles = [order.scatter([], [], color=colours[name], label=name) for name in fusions]
    handles.append(order.scatter([], [], color=GREY, marker="x", label="pruned"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path)


def _draw_order(panel, trials: Sequence[FrozenTrial], colours: Mapping[str, str]) -> None:
    _scatter(panel, trials, [trial.number for trial in trials], colours)
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = list(itertools.accumulate((trial.value for trial in whole), max))
    panel.step([trial.number for trial in whole], best, where="post", color=GREY, linewidth=1, zorder=0)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.set(title="in their order, and the best so far", xlabel="trial", ylabel="validation accuracy")


def _draw_curves(panel, trials: Sequence[FrozenTrial], colours: Mapping[str, str]) -> None:
    for trial in trials:
        steps, values = zip(*sorted(trial.intermediate_values.items()), strict=True)
        pruned = trial.state == TrialState.PRUNED
        colour = colours[trial.params["fusion"]]
        panel.plot(steps, values, color=colour, linewidth=1, alpha=0.45 if pruned else 0.9)
        panel.plot(steps[-1:], values[-1:], "x" if pruned else ".", color=colour)
    panel.set(title="while they were trained", xlabel="optimizer step", ylabel="validation accuracy", ylim=(0, None))
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(alpha=0.3)


def _draw_rates(panel, trials: Sequence[FrozenTrial], colours: Mapping[str, str]) -> None:
    """On a logarithmic axis of at least a decade, with so few ticks that none stands on another."""
    rates = [trial.params["learning_rate"] for trial in trials]
    _scatter(panel, trials, rates, colours)
    panel.set_xscale("log")
    middle, half = math.sqrt(min(rates) * max(rates)), max(math.sqrt(10), 1.2 * math.sqrt(max(rates) / min(rates)))
    panel.set(title="by learning rate", xlabel="learning rate", ylabel="validation accuracy")
    panel.set_xlim(middle / half, middle * half)
    panel.xaxis.get_major_locator().set_params(subs=(1.0, 3.0))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("")


def _draw_strip(panel, trials: Sequence[FrozenTrial], name: str, title: str, colours: Mapping[str, str]) -> None:
    """The values of a parameter side by side; trials that share one lie a little apart."""
    values = sorted({trial.params[name] for trial in trials})
    places = [values.index(trial.params[name]) + 0.05 * (trial.number % 7 - 3) for trial in trials]
    _scatter(panel, trials, places, colours)
    turned = {"rotation": 15, "ha": "right", "rotation_mode": "anchor"} if name == "fusion" else {}
    panel.set_xticks(range(len(values)), values, **turned)
    panel.set(title=f"by {title}", ylabel="validation accuracy", xlim=(-0.5, len(values) - 0.5))


def _scatter(panel, trials: Sequence[FrozenTrial], places: Sequence[float], colours: Mapping[str, str]) -> None:
    """The best score of each trial: of a pruned one, until it was pruned."""
    for trial, place in zip(trials, places, strict=True):
        marker = "x" if trial.state == TrialState.PRUNED else "o"
        score = max(trial.intermediate_values.values())
        panel.scatter([place], [score], color=colours[trial.params["fusion"]], marker=marker, s=28)
    panel.grid(alpha=0.3)
    panel.set_ylim(bottom=0)


def _new_figure():
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib, which draws the study, is missing. Run pip install 'mmfuse[tuning]'.") from error
    return Figure(figsize=(13, 7.6), dpi=110, layout="constrained")
