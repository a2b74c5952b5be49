"""G22: time until handwritten digits in three parts are told apart, ours and by hand, from the same seeds."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from common import Row
from data_measure import Case, Setting
from training_loops import CLIP, RATE
from training_models import DEVICE
from training_turns import in_turns, quartiles

from mmfuse import Batch, Input, MultimodalModel, Target, dims_of
from mmfuse.encoders import ProjectionEncoder
from mmfuse.fusion import LowRankFusion
from mmfuse.losses import Sum
from mmfuse.tasks import Classification
from mmfuse.training import make_optimizer, parameter_groups, train_epoch

PARTS = {"top": slice(0, 3), "middle": slice(3, 6), "bottom": slice(6, 8)}  # rows of 8 x 8 pixels
GOAL, MOST_EPOCHS, BATCH = 0.95, 30, 50


class Digits:
    """Batches of scikit-learn's digits, in another order in every epoch."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
        self.images = torch.tensor(digits.images / 16, dtype=torch.float32)[order]
        self.labels = torch.tensor(digits.target)[order]
        self.held_out = torch.arange(1450, len(order))

    def epoch(self, number: int) -> list[Batch]:
        order = torch.randperm(1450, generator=torch.Generator().manual_seed(number))
        return [self.batch(rows) for rows in order.split(BATCH)]

    def batch(self, rows: torch.Tensor) -> Batch:
        known = torch.ones(len(rows), dtype=torch.bool)
        inputs = {name: Input(self.images[rows, part].flatten(1), known) for name, part in PARTS.items()}
        return Batch(inputs, {"digit": Target(self.labels[rows], known)})


def make_model() -> MultimodalModel:
    """Two layers for each part, and low-rank fusion; without dropout, since the loops would draw it from one stream."""
    torch.manual_seed(0)
    encoders = {
        name: ProjectionEncoder(64, width=8 * (rows.stop - rows.start), dropout=0.0) for name, rows in PARTS.items()
    }
    fusion = LowRankFusion(dims_of(encoders), 128, rank=16)
    return MultimodalModel(encoders, fusion, {"digit": Classification(128, 10)}).to(DEVICE)


@dataclass
class Run:
    """One training: its losses, and its accuracy after every epoch."""

    model: MultimodalModel
    held_out: Batch
    steps: int  # in an epoch
    losses: list[torch.Tensor] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    def note(self, loss: torch.Tensor) -> None:
        self.losses.append(loss)
        if len(self.losses) % self.steps == 0:
            self.model.eval()
            with torch.inference_mode():
                found = self.model(self.held_out).predictions["digit"].argmax(dim=1)
            self.accuracies.append((found == self.held_out.targets["digit"].values).float().mean().item())
            self.model.train()

    @property
    def epochs_needed(self) -> int:
        return next((i for i, accuracy in enumerate(self.accuracies, start=1) if accuracy >= GOAL), MOST_EPOCHS)


def ours(run: Run, batches: Iterable[Batch]) -> None:
    optimizer = make_optimizer(parameter_groups(run.model, learning_rate=RATE))
    for losses in train_epoch(run.model, batches, weigh=Sum(), optimizer=optimizer, clip=CLIP):
        run.note(losses["digit"])


def by_hand(run: Run, batches: Iterable[Batch]) -> None:
    model, groups = run.model, parameter_groups(run.model, learning_rate=RATE)
    optimizer = torch.optim.AdamW(groups, fused=True)
    parameters = [parameter for group in groups for parameter in group["params"]]
    model.train()
    for batch in batches:
        batch = batch.to(DEVICE)
        optimizer.zero_grad()
        logits = model(batch).predictions["digit"]
        # A mean of cross_entropy's own adds up in another order: the last bit of the loss, not of the gradient.
        loss = F.cross_entropy(logits, batch.targets["digit"].values, reduction="none").sum() / BATCH
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        run.note(loss.detach())


def digits(setting: Setting) -> list[Row]:
    data, epochs = Digits(), 6 if setting.quick else MOST_EPOCHS
    batches = [batch for number in range(epochs + 1) for batch in data.epoch(number)]  # the first turn warms up
    steps = len(batches) // (epochs + 1)
    runs = {name: Run(make_model(), data.batch(data.held_out).to(DEVICE), steps) for name in ("ours", "by hand")}
    loops = {"ours": partial(ours, runs["ours"]), "by hand": partial(by_hand, runs["by hand"])}
    seconds = in_turns(loops, batches, rounds=epochs, steps=steps)
    losses = [torch.stack(run.losses) for run in runs.values()]
    different = int((losses[0] != losses[1]).sum())
    needed = [run.epochs_needed for run in runs.values()]
    times = [count * steps * statistics.median(each) for count, each in zip(needed, seconds.values(), strict=True)]
    lower, middle, upper = quartiles(seconds["ours"], seconds["by hand"])
    ratio = middle * needed[0] / needed[1]
    note = f"{needed[0]} and {needed[1]} epochs; quartiles {lower:.3f} to {upper:.3f}"
    name = "digits in three parts, low-rank fusion"
    return [
        Row(f"{name}: losses of {len(losses[0])} steps that differ", different, 0, different, 0, ""),
        Row(f"{name}: time to {GOAL:.0%}", *times, ratio, setting.target(1.03), "s", note),
    ]


CASES: dict[str, Case] = {"digits": digits}
