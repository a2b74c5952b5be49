"""Small encoders for the comparison, trained on one modality each, then frozen: every fusion reads equal features."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmfuse import Batch, Features, Input, MultimodalModel, Target
from mmfuse.fusion import WeightedAverage
from mmfuse.layers.masking import masked_mean
from mmfuse.tasks import Classification
from mmfuse.training import fit

Augment = Callable[[Batch, torch.Generator], Batch]
WIDTH = 64


@dataclass(frozen=True)
class Problem:
    """What a fusion is trained and tested on."""

    train: Batch
    test: Batch
    classes: int
    epochs: int
    batch_size: int = 64
    best: float | None = None  # the best possible accuracy, where it is known

    @property
    def dims(self) -> dict[str, int]:
        return {name: x.values.shape[-1] for name, x in self.train.inputs.items()}


@dataclass
class Samples:
    """Batches of samples that are all in memory; shuffled, they come in another order in every epoch."""

    batch: Batch
    size: int = 64
    shuffle: bool = False
    augment: Augment | None = None
    epoch: int = 0

    def __len__(self) -> int:
        return -(-self._samples() // self.size)

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.epoch)
        self.epoch += 1
        samples = self._samples()
        order = torch.randperm(samples, generator=generator) if self.shuffle else torch.arange(samples)
        for rows in order.split(self.size):
            batch = cut(pytree.tree_map(lambda x, rows=rows: x[rows], self.batch))
            yield self.augment(batch, generator) if self.augment else batch

    def _samples(self) -> int:
        return len(next(iter(self.batch.inputs.values())).present)


def cut(batch: Batch) -> Batch:
    """Without the steps at the end that no sample of the batch has."""
    return replace(batch, inputs={name: _cut(x) for name, x in batch.inputs.items()})


def _cut(x: Input) -> Input:
    if x.mask is None:
        return x
    longest = max(1, int((x.mask * torch.arange(1, x.mask.shape[1] + 1)).max()))
    return replace(x, values=x.values[:, :longest], mask=x.mask[:, :longest])


class Perceptron(nn.Module):
    """One hidden layer: (batch, width) -> Features."""

    def __init__(self, width: int, *, dim: int = WIDTH):
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.Linear(width, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim), nn.GELU())

    def forward(self, input: Input) -> Features:
        return Features.from_pooled(self.layers(input.zeroed().values), input.present)


class Series(nn.Module):
    """Convolutions over time with strides: (batch, time, channel), all of one length -> Features."""

    def __init__(self, channels: int, *, dim: int = WIDTH, strides: tuple[int, ...] = (2, 2, 2), dropout: float = 0.3):
        super().__init__()
        self.dim = dim
        widths = [channels, *[dim] * len(strides)]
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(before, after, 5, stride=stride, padding=2),
                nn.BatchNorm1d(after),
                nn.GELU(),
                nn.Dropout(dropout),
            )
            for before, after, stride in zip(widths, widths[1:], strides, strict=False)
        )

    def forward(self, input: Input) -> Features:
        tokens = input.zeroed().values.transpose(1, 2)
        for conv in self.convs:
            tokens = conv(tokens)
        tokens = tokens.transpose(1, 2)
        mask = input.present[:, None].expand(tokens.shape[:2])
        return Features(tokens, mask, masked_mean(tokens, mask))


class Frames(nn.Module):
    """A small CNN for every frame and its change, then convolutions over time: (batch, time, height, width)."""

    def __init__(self, height: int, width: int, *, dim: int = WIDTH, dropout: float = 0.3):
        super().__init__()
        self.dim = dim
        self.look = nn.Sequential(
            nn.Conv2d(2, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.GELU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.GELU(), nn.Flatten(), nn.Dropout(dropout),
            nn.Linear(32 * -(-height // 8) * -(-width // 8), dim),
        )  # fmt: skip
        self.series = Series(dim, dim=dim, strides=(1, 1), dropout=dropout)

    def forward(self, input: Input) -> Features:
        frames = input.zeroed().values
        change = frames - F.pad(frames, (0, 0, 0, 0, 1, 0))[:, :-1]
        seen = self.look(torch.stack([frames, change], dim=2).flatten(0, 1)).unflatten(0, frames.shape[:2])
        return self.series(replace(input, values=seen, mask=None))


@dataclass(frozen=True)
class Pretraining:
    """How the encoder of one modality is trained before it is frozen."""

    labels: Tensor  # of the training samples; what the modality can answer alone
    classes: int
    epochs: int
    augment: Augment | None = None
    copies: int = 1  # of every training sample, each with its own augmentation and dropout


def freeze(
    encoders: Mapping[str, nn.Module], train: Batch, test: Batch, how: Mapping[str, Pretraining], *, seed: int = 0
) -> tuple[Batch, Batch]:
    """Train each encoder on its modality alone; then both splits as the tokens that it makes of them.

    The features of the training samples come with the dropout and the augmentation of training, in some copies:
    without them they would be surer than those of the test samples ever are, and teach a fusion nothing.
    """
    frozen: list[dict[str, Input]] = [{}, {}]
    for name, encoder in encoders.items():
        plan = how[name]
        torch.manual_seed(seed)
        head = Classification(WIDTH, plan.classes)
        model = MultimodalModel({name: encoder}, WeightedAverage({name: encoder.dim}, WIDTH), {"label": head})
        known = torch.ones_like(plan.labels, dtype=torch.bool)
        own = Batch({name: train.inputs[name]}, {"label": Target(plan.labels, known)})
        samples = Samples(own, 32, shuffle=True, augment=plan.augment)
        settings = {"learning_rate": 2e-3, "weight_decay": 0.05, "seed": seed, "progress": False, "device": "cpu"}
        fit(model, samples, epochs=plan.epochs, **settings)
        noisy = [Samples(own, 128, augment=plan.augment, epoch=copy) for copy in range(plan.copies)]
        frozen[0][name] = _encoded(_with_dropout(encoder, plan.copies > 1), [b for s in noisy for b in s], name)
        frozen[1][name] = _encoded(encoder.eval(), Samples(Batch({name: test.inputs[name]}, {}), 128), name)
    copies = {plan.copies for plan in how.values()}.pop()
    targets = pytree.tree_map(lambda x: x.repeat(copies, *(1,) * (x.dim() - 1)), train.targets)
    return Batch(frozen[0], targets), replace(test, inputs=frozen[1])


def _with_dropout(encoder: nn.Module, wanted: bool) -> nn.Module:
    encoder.eval()
    for part in encoder.modules():
        if wanted and isinstance(part, nn.Dropout):
            part.train()
    return encoder


def _encoded(encoder: nn.Module, batches: Iterable[Batch], name: str) -> Input:
    with torch.no_grad():
        parts = [encoder(batch.inputs[name]) for batch in batches]
    longest = max(part.tokens.shape[1] for part in parts)
    tokens = torch.cat([F.pad(part.tokens, (0, 0, 0, longest - part.tokens.shape[1])) for part in parts])
    mask = torch.cat([F.pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts])
    return Input(tokens, mask.any(dim=1), mask)


def vectors(values: Tensor) -> Input:
    return Input(values, torch.ones(len(values), dtype=torch.bool))


def padded(sequences: list[Tensor]) -> Input:
    values = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    lengths = torch.tensor([len(x) for x in sequences])
    return Input(values, lengths > 0, torch.arange(values.shape[1]) < lengths[:, None])


def target(labels: Tensor) -> dict[str, Target]:
    return {"label": Target(labels, torch.ones_like(labels, dtype=torch.bool))}
