"""Frozen encoders for the tests of caching: every number of a result depends on one row alone, bit for bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import mmfuse
from mmfuse import Features, MultimodalModel, dims_of
from mmfuse.data import read_table
from mmfuse.data.transforms import FeatureTransform
from mmfuse.encoders import ProjectionEncoder
from mmfuse.fusion import FUSIONS
from mmfuse.tasks import Classification
from mmfuse.training import cache_features

DIM = 6


@mmfuse.recorded
class LetterTransform:
    """A text as numbers of its letters."""

    takes_path = False
    random = False
    padding = 0

    def __init__(self, longest: int = 99) -> None:
        self.longest = longest

    def __call__(self, value):
        return self.batch([value])[0][0]

    def batch(self, values):
        for value in values:
            if "!" in value:
                raise ValueError("The text shouts. Expected a calm one. Rewrite it.")
        tensors = [torch.tensor([ord(letter) % 64 for letter in value[: self.longest]]) for value in values]
        return tensors, [max(0, len(value) - self.longest) for value in values]

    def blank(self):
        return torch.zeros(1, dtype=torch.int64)


class Trap(LetterTransform):
    """Does something when it meets a text; all that is recorded of it is what a LetterTransform has."""

    def __init__(self, text: str, act: Callable[[], Any] | None) -> None:
        super().__init__()
        self._recorded_arguments = {}
        self.text, self.act = text, act

    def batch(self, values):
        if self.text in values:
            self.act()
        return super().batch(values)


@mmfuse.recorded
class LetterEncoder(nn.Module):
    """A vector for each letter; every second letter is not real if there are gaps."""

    pretrained = False

    def __init__(self, dim: int = DIM, *, gaps: bool = False) -> None:
        super().__init__()
        self.dim, self.gaps = dim, gaps
        self.letters = nn.Embedding(64, dim)
        self.calls = 0

    def forward(self, input):
        self.calls += int(input.present.sum())
        mask = input.mask & input.present[:, None]
        if self.gaps:
            mask = mask & (torch.arange(mask.shape[1]) % 2 == 1)
        tokens = self.letters(input.values).masked_fill(~mask[..., None], -9.0)
        return Features(tokens, mask, tokens.amax(dim=1))  # a mean would depend on the padding, in its last bit

    def transform(self, train=False):
        return LetterTransform()


@mmfuse.recorded
class ScaleEncoder(nn.Module):
    """Vectors of files, each number scaled."""

    pretrained = False

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.dim = dim
        self.scale = nn.Parameter(torch.randn(dim))
        self.dropout = nn.Dropout(0.5)
        self.calls = 0

    def forward(self, input):
        self.calls += int(input.present.sum())
        return Features.from_pooled(self.dropout(input.values * self.scale), input.present)

    def transform(self, train=False):
        return FeatureTransform(self.dim)


class RandomTransform(FeatureTransform):
    """One that says it is random."""

    random = True


def letters_of(row):
    return "".join(chr(97 + (row * 7 + i) % 26) for i in range(1 + row % 11))


def make_table(folder, rows=24):
    """A CSV of texts of many lengths and of files with vectors; some cells are empty."""
    random = np.random.default_rng(0)
    lines = ["words,sensor,more,kind"]
    for row in range(rows):
        np.save(folder / f"{row}.npy", random.standard_normal(DIM).astype(np.float32))
        words = "" if row % 7 == 3 else letters_of(row)
        sensor = "" if row % 5 == 2 else f"{row}.npy"
        lines.append(f"{words},{sensor},{row % 10}.npy,kind{row % 3}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return read_table(folder / "table.csv")


def make_parts(*, fusion="Concat", gaps=False, freeze=True):
    """A model of two frozen encoders and one that learns."""
    torch.manual_seed(0)
    encoders = {
        "words": LetterEncoder(gaps=gaps),
        "sensor": ScaleEncoder(),
        "more": ProjectionEncoder(DIM, width=DIM),
    }
    if freeze:
        encoders["words"].requires_grad_(False)
        encoders["sensor"].requires_grad_(False)
    dims = dims_of(encoders)
    return MultimodalModel(encoders, FUSIONS[fusion](dims, 8), {"kind": Classification(8, ["kind0", "kind1", "kind2"])})


def cache(model, table, folder, **options):
    return cache_features(model, table, folder, progress=False, **options)


def calls(model):
    return {name: encoder.calls for name, encoder in model.encoders.items() if hasattr(encoder, "calls")}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
