"""The pictures of digit_arithmetic.py: what was learned and confused, shown and heard, and what each modality gives."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np

PIXELS_PER_INCH = 120
WIDEST_INCH = 13.0
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#bb5500", "#222222")
MODALITY_COLOURS = {"image": "#4477aa", "audio": "#ee8866", "text": "#44aa99"}
RIGHT, WRONG, GREY = "#1a7f37", "#c62828", "#555555"


@dataclass(frozen=True)
class Answered:
    """One sample of the sheet: what was shown, heard and asked, and what was answered."""

    image: Path
    audio: Path
    text: str
    result: str
    answer: str
    spoken: str = ""  # what was heard, for a reader who cannot read spectrograms
    number: float | None = None  # the answer of the regression
    weights: Mapping[str, float] = field(default_factory=dict)  # of each modality, where the fusion reports them


def draw_learning_curves(curves: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw fusion -> quantity -> one value an epoch: a panel for each quantity, such as "validation accuracy"."""
    quantities = _in_order(quantity for series in curves.values() for quantity in series)
    figure = _new_figure(4.6 * len(quantities), 3.8)
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    colours = dict(zip(curves, cycle(COLOURS), strict=False))
    for panel, quantity in zip(panels, quantities, strict=True):
        for name, series in curves.items():
            values = series.get(quantity, ())
            panel.plot(range(1, len(values) + 1), values, ".-", color=colours[name], label=name)
        panel.set(title=quantity, xlabel="epoch", ylabel=quantity.split()[-1])
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_ylim(bottom=0, top=1.02 if "accuracy" in quantity else None)
        panel.grid(alpha=0.3)
    _legend_below(figure, panels[0])
    figure.savefig(path)


def draw_confusion(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str], path: Path) -> None:
    """Draw how often each right answer (row) got each answer (column): counts, coloured by their share of the row."""
    place = {name: i for i, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, ([place[x] for x in labels], [place[x] for x in predicted]), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.8 + 0.31 * len(classes)
    figure = _new_figure(side + 0.8, side)
    panel = figure.subplots()
    shown = panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 0.5 else "black"
        panel.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=colour)
    panel.set_xticks(range(len(classes)), classes)
    panel.set_yticks(range(len(classes)), classes)
    accuracy = np.trace(counts) / max(1, counts.sum())
    title = f"{accuracy:.1%} of {counts.sum()} test answers are right"
    panel.set(xlabel="answer given", ylabel="right answer", title=title)
    figure.colorbar(shown, ax=panel, label="share of the row", shrink=0.8, fraction=0.04, pad=0.02)
    figure.savefig(path)


def draw_samples(samples: Sequence[Answered], path: Path) -> None:
    """Draw a sheet, two samples in a row: sentence, drawing, spectrogram, both answers and the modality weights."""
    rows = -(-len(samples) // 2)
    figure = _new_figure(WIDEST_INCH, 2.4 * rows)
    cells = figure.subfigures(rows, 2, wspace=0.02, hspace=0.02, squeeze=False).ravel()
    for cell, sample in zip(cells, samples, strict=False):
        cell.set_facecolor("#f7f7f7")
        cell.suptitle(textwrap.fill(sample.text, 90), fontsize=10, x=0.02, ha="left")
        widths = (1.0, 1.7, 1.2) if sample.weights else (1.0, 1.7)
        panels = cell.subplots(1, len(widths), width_ratios=widths)
        _draw_image(panels[0], sample)
        _draw_spectrogram(panels[1], sample)
        if sample.weights:
            _draw_weights(panels[2], sample.weights)
    figure.savefig(path)


def draw_hidden(accuracies: Mapping[str, Mapping[str, float]], path: Path, *, chance: float) -> None:
    """Draw fusion -> "everything" or the modality that is hidden -> accuracy, beside the best guess without looking."""
    cases = _in_order(case for bars in accuracies.values() for case in bars)
    figure = _new_figure(2.5 + 0.6 * len(cases) * len(accuracies), 4.4)
    panel = figure.subplots()
    width = 0.84 / len(cases)
    for i, case in enumerate(cases):
        places = np.arange(len(accuracies)) + (i - (len(cases) - 1) / 2) * width
        heights = [bars.get(case, np.nan) for bars in accuracies.values()]
        label = case if case == "everything" else f"{case} hidden"
        bars = panel.bar(places, heights, 0.92 * width, label=label, color=MODALITY_COLOURS.get(case, GREY))
        panel.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    panel.axhline(chance, color="black", linestyle="--", linewidth=1, label=f"always the same answer, {chance:.2f}")
    panel.set_xticks(range(len(accuracies)), accuracies)
    panel.set(ylim=(0, 1.08), ylabel="test accuracy", title="With everything, and with a modality hidden at test time")
    panel.grid(axis="y", alpha=0.3)
    panel.set_axisbelow(True)
    _legend_below(figure, panel)
    figure.savefig(path)


def _draw_image(panel, sample: Answered) -> None:
    from PIL import Image

    panel.imshow(Image.open(sample.image), cmap="gray", vmin=0, vmax=255)
    panel.set(xticks=[], yticks=[])
    panel.set_title("shown", fontsize=9)
    number = "" if sample.number is None else f"  ({sample.number:.1f})"
    colour = RIGHT if sample.answer == sample.result else WRONG
    panel.set_xlabel(f"right: {sample.result}\nanswer: {sample.answer}{number}", color=colour, fontsize=10)


def _draw_spectrogram(panel, sample: Answered) -> None:
    import soundfile
    import torch
    from torchaudio.transforms import MelSpectrogram

    signal, rate_hz = soundfile.read(sample.audio, dtype="float32")
    power = MelSpectrogram(rate_hz, n_fft=512, hop_length=80, n_mels=40)(torch.from_numpy(signal)).numpy()
    loudness_db = 10 * np.log10(power + 1e-10)
    seconds = len(signal) / rate_hz
    panel.imshow(
        loudness_db,
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, len(power)),
        cmap="magma",
        vmin=loudness_db.max() - 60,
    )
    panel.set_xlabel("time / s", fontsize=9)
    panel.set_ylabel("mel band", fontsize=9)
    panel.set_yticks([0, 20, 40])
    panel.tick_params(labelsize=8)
    panel.set_title(f"heard: {sample.spoken}".rstrip(": "), fontsize=9)


def _draw_weights(panel, weights: Mapping[str, float]) -> None:
    colours = [MODALITY_COLOURS.get(name, GREY) for name in weights]
    bars = panel.barh(list(weights), list(weights.values()), height=0.6, color=colours)
    panel.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    panel.set_xlim(0, 1.25)
    panel.set_xticks([0, 0.5, 1])
    panel.set_title("weight in the fusion", fontsize=9)
    panel.tick_params(labelsize=8)
    panel.invert_yaxis()
    panel.spines[["top", "right"]].set_visible(False)


def _new_figure(width_inch: float, height_inch: float):
    """Make a figure of its own, not one of pyplot's: nothing has to be closed, no setting is changed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "matplotlib, which draws the pictures, is missing. Run pip install 'mmfuse[demo]'."
        ) from error
    size = (min(max(width_inch, 5.5), WIDEST_INCH), height_inch)
    figure = Figure(figsize=size, dpi=PIXELS_PER_INCH, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    return figure


def _legend_below(figure, panel) -> None:
    handles, labels = panel.get_legend_handles_labels()
    fit_in_width = max(1, int(figure.get_figwidth() / 1.9))
    rows = -(-len(labels) // fit_in_width)
    figure.legend(handles, labels, loc="outside lower center", ncols=-(-len(labels) // rows), frameon=False, fontsize=9)


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
