"""The problems of the comparison: training and test samples as features, the same for every fusion."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from comparison_encoders import Perceptron, Pretraining, Problem, freeze, padded, target, vectors
from comparison_utd import utd_mhad
from torch import Tensor

from mmfuse import Batch, Input, MultimodalModel, dims_of
from mmfuse.data import Table, load_batches, make_synthetic, read_table
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import SpectrogramEncoder, TextEncoder, ViTEncoder
from mmfuse.fusion import Concat
from mmfuse.tasks import Classification

EXAMPLES = Path(__file__).parent.parent / "examples"
NOISE_DB = -6.0


def synthetic(kind: str) -> Callable[..., Problem]:
    """Made-up samples with known best accuracy: vectors, and sequences of unequal length."""

    def make(folder: Path, seed: int, *, quick: bool) -> Problem:
        del folder
        flip = 0.05 if kind in ("synergy", "mixed") else 0.2
        settings = {"modalities": {"vector": 1, "short": 4, "long": 8}, "dim": 4, "flip": flip}
        train = make_synthetic(kind, 300 if quick else 2000, seed=2 * seed, **settings)
        test = make_synthetic(kind, 300 if quick else 3000, seed=2 * seed + 1, **settings)
        best = test.bayes_accuracy()
        return Problem(train.batch, test.batch, train.num_classes, epochs=2 if quick else 6, batch_size=32, best=best)

    return make


def handwritten(folder: Path, seed: int, *, quick: bool) -> Problem:
    """Six feature views of 2000 handwritten digits, the split of TMC; standardised by the training rows."""
    del seed  # nothing is random here
    data = np.load(folder / "handwritten" / "handwritten_tmc_split.npz")
    labels, train, test = torch.tensor(data["y"].astype(int)), data["train_idx"], data["test_idx"]
    views = {}
    for i in range(6):
        view = data[f"view{i}"].astype(np.float32)
        view = (view - view[train].mean(axis=0)) / (view[train].std(axis=0) + 1e-6)
        views[str(data["view_names"][i])] = torch.tensor(view)
    batches = [
        Batch({name: vectors(view[rows]) for name, view in views.items()}, target(labels[rows]))
        for rows in (torch.tensor(train), torch.tensor(test))
    ]
    return Problem(*batches, classes=10, epochs=3 if quick else 6)


def av_digits(folder: Path, seed: int, *, quick: bool) -> Problem:
    """A digit seen through four principal components, and heard at -6 dB among two others and noise.

    Each training pair comes under several draws of noise.
    """
    data = {name: np.load(folder / "avdigits" / f"{name}.npz") for name in ("mnist20k", "fsdd", "pairs")}
    sizes, draws = {"train": 400 if quick else 1500, "test": 200 if quick else 2000}, {"train": 4, "test": 1}
    pictures = {name: data["mnist20k"][f"x_{name}"].reshape(10000, -1).astype(np.float32) / 255 for name in sizes}
    middle = pictures["train"].mean(axis=0)
    _, _, components = np.linalg.svd(pictures["train"] - middle, full_matrices=False)
    batches, digits = [], {}
    for name, size in sizes.items():
        rng = np.random.default_rng([seed, name == "test"])
        chosen = np.tile(rng.permutation(10000)[:size], draws[name])
        seen = torch.tensor((pictures[name][chosen] - middle) @ components[:4].T / 3)
        heard = _noisy_voices(data["fsdd"], data["pairs"][name][chosen], rng)
        digits[name] = torch.tensor(data["mnist20k"][f"y_{name}"][chosen].astype(int))
        batches.append(Batch({"image": vectors(seen), "audio": heard}, target(digits[name])))
    encoders = {"image": Perceptron(4), "audio": SpectrogramEncoder(64, rate_hz=8000)}
    epochs = {"image": 8, "audio": 8}
    how = {name: Pretraining(digits["train"], 10, 1 if quick else epochs[name]) for name in encoders}
    return Problem(*freeze(encoders, *batches, how, seed=seed), classes=10, epochs=2)


def _noisy_voices(voices: np.lib.npyio.NpzFile, rows: np.ndarray, rng: np.random.Generator) -> Input:
    """Recordings of at most a second, each under white noise and two recordings of the same split, 6 dB louder."""
    wave, offset = voices["wave"].astype(np.float32) / 32768, voices["offset"]
    clips = []
    for row in rows:
        clip, *others = (wave[offset[r] : offset[r + 1]][:8000] for r in (row, *rng.choice(rows, 2)))
        noise = rng.standard_normal(len(clip)).astype(np.float32)
        for other in others:
            part = np.resize(other, len(clip))
            noise += part / (np.sqrt(np.mean(part**2)) + 1e-6)
        loudness = np.sqrt(np.mean(clip**2) / np.mean(noise**2)) * 10 ** (-NOISE_DB / 20)
        clips.append(torch.tensor(clip + loudness * noise))
    return padded(clips)


def digit_arithmetic(folder: Path, seed: int, *, quick: bool) -> Problem:
    """The main example; each encoder has learned what its own modality shows: a digit, a digit, an operation."""
    sys.path.insert(0, str(EXAMPLES))
    from digit_arithmetic_data import make_data

    place = folder / f"digit_arithmetic_{'quick' if quick else 'full'}"
    if not (place / "test.csv").exists():
        make_data(place, rows={"train": 300 if quick else 3000, "validation": 10, "test": 100 if quick else 1500})
    tables = {name: read_table(place / f"{name}.csv", columns={"label": "result"}) for name in ("train", "test")}
    answers = tables["train"].classes("label")
    encoders = {
        "image": ViTEncoder.preset("tiny"),
        "audio": SpectrogramEncoder.preset("tiny"),
        "text": TextEncoder.preset("tiny", tokenizer=train_tokenizer(tables["train"].column("text"), vocab_size=300)),
    }
    model = MultimodalModel(encoders, Concat(dims_of(encoders), 64), {"label": Classification(64, answers)})
    batches = [_whole(table, model) for table in tables.values()]
    shows = {"image": "written", "audio": "spoken", "text": "operation"}
    how = {}
    for name, column in shows.items():
        classes = tables["train"].classes(column)
        labels = torch.tensor([classes.index(cell) for cell in tables["train"].column(column)])
        how[name] = Pretraining(labels, len(classes), 1 if quick else 6)
    return Problem(*freeze(encoders, *batches, how, seed=seed), classes=len(answers), epochs=2 if quick else 4)


def _whole(table: Table, model: MultimodalModel) -> Batch:
    """All rows of a table as one batch."""
    parts = list(load_batches(table, model, batch_size=256, cache=True))
    inputs = {name: _joined([part.inputs[name] for part in parts]) for name in model.encoders}
    return Batch(inputs, target(torch.cat([part.targets["label"].values for part in parts])))


def _joined(parts: list[Input]) -> Input:
    present = torch.cat([part.present for part in parts])
    if parts[0].mask is None:
        return Input(torch.cat([part.values for part in parts]), present)
    longest = max(part.values.shape[1] for part in parts)
    values = torch.cat([F.pad(part.values, (0, longest - part.values.shape[1])) for part in parts])
    return Input(values, present, torch.cat([_pad(part.mask, longest) for part in parts]))


def _pad(mask: Tensor, longest: int) -> Tensor:
    return F.pad(mask, (0, longest - mask.shape[1]))


MADE_UP = {f"synthetic {kind}": synthetic(kind) for kind in ("synergy", "redundancy", "uniqueness", "mixed")}
REAL = {"handwritten": handwritten, "UTD-MHAD": utd_mhad, "AV digits": av_digits}
PROBLEMS: dict[str, Callable[..., Problem]] = {**MADE_UP, "digit arithmetic": digit_arithmetic, **REAL}
