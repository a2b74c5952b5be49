"""Peak memory and products of a step as samples, tokens and modalities grow, next to what was calculated."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from common import Row, paired, peak_mib
from scaling_models import Size, make_batch, make_model
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mmfuse import Batch, MultimodalModel
from mmfuse.losses import Sum
from mmfuse.training import Objective, make_optimizer, parameter_groups, train_epoch
from mmfuse.training.objective import totals_of

RESIDUAL = 0.05  # of the linear fit, goal G29


def line_rows(quick: bool) -> list[Row]:
    """The largest distance of a measured peak from the straight line through all of them, as a share of it."""
    size = Size(layers=4) if quick else Size()
    cases: dict[str, Sequence[Size]] = {
        "samples": [replace(size, samples=n) for n in (4, 8, 16, 32)],
        "tokens": [replace(size, tokens=n) for n in (32, 64, 128, 256)],
        "modalities": [replace(size, modalities=n) for n in (2, 3, 4)],
        "layers": [replace(size, layers=n) for n in (2, 4, 8)],
    }
    rows = []
    for name, sizes in cases.items():
        numbers, peaks = [getattr(each, name) for each in sizes], [peak(each) for each in sizes]
        slope, start = map(float, np.polyfit(numbers, peaks, 1))
        residual = max(abs(p - start - slope * n) / p for n, p in zip(numbers, peaks, strict=True))
        across = f"{name} {', '.join(map(str, numbers))}: residual of the straight line"
        note = f"peaks {', '.join(f'{p:.1f}' for p in peaks)} MiB"
        rows.append(Row(across, residual, RESIDUAL, residual / RESIDUAL, 1, "", note))
        if name in ("samples", "tokens"):
            formula = sizes[0].activation_bytes / numbers[0] / 2**20
            rows.append(Row(f"{name}: growth of the peak with one more, to 16 d numbers a token and layer", slope,
                            formula, slope / formula, 1.25, "MiB"))  # fmt: skip
    return rows


def saving_rows(quick: bool) -> list[Row]:
    """What makes a step smaller: pieces of it, and activations that are computed again."""
    size = Size(layers=4, samples=16) if quick else Size(samples=16)
    small = replace(size, samples=4)
    whole, pieces = (
        step_peak(size, [make_batch(size)]),
        step_peak(small, [make_batch(small, seed) for seed in range(4)], accumulate=4),
    )
    again = peak(replace(size, checkpointing=True))
    kept = peak(size)
    layers = size.layers
    return [
        Row("a step of 4 batches of 4 (accumulate=4), to one of 16: peak", pieces, whole, pieces / whole, 0.5, "MiB"),
        Row(f"checkpointing=True, {layers} layers: peak, to without", again, kept, again / kept, 0.45, "MiB"),
        Row("checkpointing=True: products of a step, to without", *_flops(size), 1.36, "GFLOP"),
    ]


def growth_rows(quick: bool) -> list[Row]:
    """Products of a step as the size doubles; and its time on this machine, of which nothing is promised."""
    size, rounds = (Size(layers=2), 3) if quick else (Size(), 9)
    other = flops(size)
    formula = size.products / 1e9
    rows = [Row("products of a step, to 3 (24 d^2 + 4 d T) a token and layer", other, formula, other / formula, 1.15,
                "GFLOP")]  # fmt: skip
    for name in ("samples", "tokens", "modalities"):
        twice = replace(size, **{name: 2 * getattr(size, name)})
        expected = twice.products / size.products
        ours = flops(twice)
        row = Row(f"products of a step, twice the {name} (calculated: {expected:.2f} times)", ours, other, ours / other,
                  expected * 1.05, "GFLOP")  # fmt: skip
        rows.append(row)
    runs = [step_of(make_model(each), make_batch(each)) for each in (replace(size, samples=16), size)]
    rows.append(Row("time of forward and backward, twice the samples", *paired(*runs, pairs=rounds)))
    return rows


def peak(size: Size) -> float:
    """The most that forward and backward hold beside parameters, in MiB."""
    model = make_model(size)
    return peak_mib(step_of(model, make_batch(size)), lambda: model.zero_grad(set_to_none=True))


def step_of(model: MultimodalModel, batch: Batch) -> Callable[[], None]:
    """Forward and backward of a batch."""
    objective, totals = Objective(model, Sum()), totals_of([batch], list(model.tasks))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        objective(batch, totals)[0].backward()

    return step


def step_peak(size: Size, batches: Sequence[Batch], **how: Any) -> float:
    """The most that a whole optimizer step holds beside what stood before it, in MiB."""
    model = make_model(size)
    optimizer = make_optimizer(parameter_groups(model))

    def step() -> None:
        for _ in train_epoch(model, batches, weigh=Sum(), optimizer=optimizer, **how):
            pass

    return peak_mib(step, lambda: model.zero_grad(set_to_none=True))


def flops(size: Size) -> float:
    """Of the matrix products of forward and backward, in GFLOP."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counted:
        step_of(make_model(size), make_batch(size))()
    return counted.get_total_flops() / 1e9


def _read(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _read_backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient, q, k, v)


ATTENTION = {  # the counter of torch knows them only under their names on a GPU
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _read,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _read_backward,
}


def _flops(size: Size) -> tuple[float, float, float]:
    ours, other = flops(replace(size, checkpointing=True)), flops(size)
    return ours, other, ours / other
