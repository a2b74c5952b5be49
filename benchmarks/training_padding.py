"""G18: how much of the batches is padding, in random order and with batches of similar length, and what that costs."""

from collections.abc import Sequence

import numpy as np
import torch
from common import Row, Run, in_turn
from data_measure import Case, Setting
from training_models import DEVICE

from mmfuse import Input
from mmfuse.data.loading.buckets import BucketOrder
from mmfuse.data.loading.order import Order
from mmfuse.data.loading.passes import BatchOrder, Pass
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import TextEncoder

BATCH = 32
Lengths = dict[str, np.ndarray]


def distributions(rows: int) -> dict[str, tuple[Lengths, float]]:
    """Lengths as those of known data sets, drawn; and the largest share of padding. Sound in frames of 20 ms."""
    random = np.random.default_rng(0)
    words, reviews = (_log_normal(random, rows, *sizes) for sizes in ((19, 0.6, 128), (230, 0.75, 512)))
    read = (50 * (2 + 15 * random.beta(3, 1.4, rows))).round()
    spoken = _log_normal(random, rows, 325, 0.6, 1500)
    said = (spoken / 50 * 2.9 * np.exp(0.2 * random.standard_normal(rows))).round().clip(1)
    return {
        "text as of MOSEI": ({"text": words}, 0.05),
        "text as of IMDB": ({"text": reviews}, 0.05),
        "sound as of LibriSpeech": ({"sound": read}, 0.05),
        "sound as of MOSEI": ({"sound": spoken}, 0.05),
        "text and sound that go together": ({"text": said, "sound": spoken}, 0.08),
        "text and sound of independent lengths": ({"text": words, "sound": spoken}, 0.08),
    }


def _log_normal(random: np.random.Generator, rows: int, median: float, spread: float, most: int) -> np.ndarray:
    return (median * np.exp(spread * random.standard_normal(rows))).round().clip(1, most)


def padding(setting: Setting) -> list[Row]:
    """The share that is padding in an epoch: batches of 32, and batches of at most as many steps, to random ones."""
    made = []
    for name, (lengths, limit) in distributions(10_000 if setting.quick else 50_000).items():
        random = padded(lengths, Order(len(next(iter(lengths.values()))), BATCH, shuffle=True, seed=0))
        for how, order in orders(lengths).items():
            share = padded(lengths, order)
            title = f"padding, {name}, {how}: to random order"
            target = float(f"{limit / random:.2g}")
            row = Row(title, 100 * share, 100 * random, share / random, target, "%", f"at most {limit:.0%}")
            made.append(row)
    return made


def orders(lengths: Lengths) -> dict[str, BatchOrder]:
    """By length: as many rows in each batch, or as many steps as 32 rows of mean length have."""
    most = BATCH * sum(part.mean() for part in lengths.values())
    by_rows = BucketOrder(lengths, _steps, batch_size=BATCH, shuffle=True, seed=0)
    return {"batches of 32": by_rows, "max_tokens": BucketOrder(lengths, _steps, max_tokens=most, shuffle=True, seed=0)}


def _steps(lengths: Lengths) -> np.ndarray:
    return np.sum([lengths[name] for name in lengths], axis=0)


def padded(lengths: Lengths, order: BatchOrder) -> float:
    """The share of all steps of an epoch that is padding, with the longest of each modality in each batch."""
    steps = 0.0
    for rows in order.rows(Pass(0)):
        steps += len(rows) * sum(part[rows.numpy()].max() for part in lengths.values())
    return float(1 - sum(part.sum() for part in lengths.values()) / steps)


def time_of_padding(setting: Setting) -> list[Row]:
    """BERT, forward and backward: time for each real token in batches of similar length, to random batches."""
    rows = []
    drawn = distributions(4_000)
    for name in ("text as of MOSEI",) if setting.quick else ("text as of MOSEI", "text as of IMDB"):
        lengths = drawn[name][0]
        orders = (
            BucketOrder(lengths, _steps, batch_size=BATCH // 2, shuffle=True, seed=0),
            Order(4_000, BATCH // 2, shuffle=True, seed=0),
        )
        chosen = [[lengths["text"][rows.numpy()] for rows in list(each.rows(Pass(0)))[::50]] for each in orders]
        runs = [_training(each, setting.quick) for each in chosen]
        (ours, other), _ = in_turn(runs, rounds=setting.rounds, seconds=setting.seconds)
        ours, other = (1e3 * ms / float(sum(map(sum, each))) for ms, each in zip((ours, other), chosen, strict=True))
        row = f"time of a real token, {name}: by length to random order"
        rows.append(Row(row, ours, other, ours / other, setting.target(0.5), "us"))
    return rows


def _training(batches: Sequence[np.ndarray], quick: bool) -> Run:
    """Forward and backward of texts of these lengths, batch after batch."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a few words that nobody will ever read again"], vocab_size=200)
    layers, width = (2, 64) if quick else (4, 256)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    sizes |= {"max_position_embeddings": 512}
    config = {"model_type": "bert", "num_attention_heads": 4, "vocab_size": len(tokenizer), **sizes}
    encoder = TextEncoder(config, tokenizer).to(DEVICE)
    inputs = [_text(lengths) for lengths in batches]

    def run() -> None:
        for given in inputs:
            encoder.zero_grad()
            encoder(given).pooled.square().mean().backward()

    return run


def _text(lengths: np.ndarray) -> Input:
    mask = (torch.arange(int(lengths.max())) < torch.tensor(lengths)[:, None]).to(DEVICE)
    return Input(torch.full(mask.shape, 7, device=DEVICE), mask[:, 0], mask)


CASES: dict[str, Case] = {"padding": padding, "time of padding": time_of_padding}
