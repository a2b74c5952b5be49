"""A picture of a run: History -> losses, metrics and the learning rate over the epochs."""

import math
from itertools import cycle
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from mmfuse._checks import require_kind
from mmfuse.training.history import History

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#bb5500", "#222222")
PIXELS_PER_INCH = 120
COLUMNS = 3
TRAIN, RATE = "#999999", "#222222"
WIDE_RANGE = 50.0  # largest over smallest value from which losses are drawn on a logarithmic axis


class Panel(NamedTuple):
    """One panel: its title, and what its lines are called and stand for in the history."""

    title: str
    lines: dict[str, str]


def plot_history(history: History, path: str | Path | None = None) -> Any:
    """Draw each task's loss in training and validation, every metric, and the learning rate, over the epochs.

    The best epoch is marked in all of them. For the run of a folder: ``plot_history(History.load(folder))``.

    Args:
        history: what ``fit`` returned.
        path: of a picture, such as "history.png" or "history.pdf"; None: none is written.

    Returns:
        The figure of matplotlib, which a notebook shows.

    Raises:
        TypeError: what was given is no history, but the folder of a run, for example.
        ValueError: the history has no epoch.
    """
    if not isinstance(history, History):
        raise TypeError(
            f"plot_history got a {type(history).__name__}. Expected a History. Give what fit returned, or "
            "History.load(folder)."
        )
    if path is not None:
        require_kind("plot_history", "path", path, (str, PathLike), "a path. Write path='history.png'")
    if not history.epochs:
        raise ValueError(
            "plot_history got a history without an epoch. Expected one or more. Wait for the first to end."
        )
    if not (panels := panels_of(history)):
        raise ValueError(
            f"plot_history got a history of {sorted(map(str, history.names))}. Expected losses, metrics or a learning "
            "rate. Give what fit returned."
        )
    rows, columns = -(-len(panels) // COLUMNS), min(COLUMNS, len(panels))
    figure = _figure(4.3 * columns, 3.3 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, history, panel)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    _legend_below(figure, axes)
    if path is not None:
        figure.savefig(path)
    return figure


def panels_of(history: History) -> list[Panel]:
    """What is drawn: the sum of the losses if there are several, each task's loss, each metric, the learning rate."""
    losses = [name for name in history.names if name.endswith("/loss")]
    tasks = list(dict.fromkeys(name.split("/", 1)[1].removesuffix("/loss") for name in losses if name.count("/") > 1))
    shown = [("sum of the losses", "loss")] if len(tasks) != 1 else []
    shown += [(f"{task}: loss", f"{task}/loss") for task in tasks]
    panels = [
        Panel(title, {kind: f"{kind}/{name}" for kind in ("train", "validation") if f"{kind}/{name}" in history.names})
        for title, name in shown
    ]
    metrics: dict[str, dict[str, str]] = {}
    for name in history.names:
        if name.startswith("validation/") and name not in losses:
            task, _, metric = name.removeprefix("validation/").rpartition("/")
            metrics.setdefault(metric, {})[task] = name
    for metric, lines in metrics.items():
        task = f"{next(iter(lines))}: " if len(lines) == 1 else ""
        panels.append(Panel(task + metric.replace("_", " "), lines))
    if "learning_rate" in history.names:
        panels.append(Panel("learning rate", {"": "learning_rate"}))
    return [panel for panel in panels if panel.lines]


def _draw(axis: Any, history: History, panel: Panel) -> None:
    """One panel: its lines, the best epoch, and beside the title the value of it."""
    epochs, best = history["epoch"], history.best_epoch
    others = cycle(COLOURS)
    at_best = []
    for label, name in panel.lines.items():
        values = history[name]
        colour = TRAIN if label == "train" else RATE if not label else next(others)
        axis.plot(epochs, values, marker="." if len(epochs) <= 40 else None, color=colour, label=label, lw=1.4)
        if best in epochs and label not in ("train", ""):
            at_best.append(values[epochs.index(best)])
            axis.plot([best], at_best[-1:], "o", color=colour, ms=6)
    if best is not None:
        axis.axvline(
            best, color="#555555", ls=":", lw=1, label=f"best epoch, {best} (its values are beside the titles)"
        )
    if panel.title.endswith(("loss", "losses")) and _wide(
        [value for name in panel.lines.values() for value in history[name]]
    ):
        axis.set_yscale("log")
    axis.set_title(panel.title, fontsize=10, loc="left")
    axis.set_title(", ".join(f"{value:.4g}" for value in at_best), fontsize=9, color="#555555", loc="right")
    axis.set_xlabel("epoch", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if len(panel.lines) > 1 and "train" not in panel.lines:
        axis.legend(axis.lines[:-1:2] if best is not None else None, list(panel.lines), fontsize=8, frameon=False)


def _wide(values: list[Any]) -> bool:
    """Whether a logarithmic axis shows more of these."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > WIDE_RANGE


def _legend_below(figure: Any, axes: Any) -> None:
    """What is the same in all panels, said once."""
    shared = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        if label in ("train", "validation") or label.startswith("best epoch")
    }
    if shared:
        figure.legend(shared.values(), shared, loc="outside lower center", ncols=len(shared), frameon=False, fontsize=9)


def _figure(width_inch: float, height_inch: float) -> Any:
    """A figure of its own, not one of pyplot's: nothing has to be closed, and no setting is changed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib is missing. Expected it to draw. Run pip install 'mmfuse[plots]'.") from error
    return Figure(figsize=(width_inch, height_inch), dpi=PIXELS_PER_INCH, layout="constrained")
