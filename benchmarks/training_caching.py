"""Frozen encoders that are run once: epochs on their features next to epochs with them, and reading features."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from common import Row, Run, in_turn, replay
from data_measure import Case, Setting, faster, slower
from torch.utils.data import DataLoader, TensorDataset

from mmfuse import Batch, MultimodalModel, dims_of
from mmfuse.data import Table, load_batches, read_table
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import FeatureEncoder, SpeechEncoder, TextEncoder, ViTEncoder
from mmfuse.fusion import Concat, CrossAttention, GatedCrossAttention, PerceiverFusion
from mmfuse.losses import Sum
from mmfuse.tasks import Classification
from mmfuse.training import cache_features, make_optimizer, parameter_groups, train_epoch

WIDTH, CLASSES = 256, ["a", "b", "c", "d"]
WORDS = ["what", "somebody", "has", "said", "about", "a", "film", "that", "nobody", "else", "has", "ever", "seen"]
FUSIONS: dict[str, tuple[Callable[[dict[str, int]], torch.nn.Module], int]] = {  # and how many times as fast at least
    "tokens, text reads the others in two layers": (
        lambda dims: GatedCrossAttention(dims, WIDTH, main="text", num_layers=2),
        35,
    ),
    "tokens, cross-attention of all to all": (lambda dims: CrossAttention(dims, WIDTH), 35),
    "tokens, a Perceiver": (lambda dims: PerceiverFusion(dims, WIDTH), 35),
    "pooled vectors, an MLP": (lambda dims: Concat(dims, WIDTH), 400),
}


def epochs(setting: Setting) -> list[Row]:
    """Epochs of ViT-B/16, BERT-base and wav2vec2-base with random weights, frozen; batches of two."""
    table = _table(4)
    encoders = _encoders(table, setting.quick)
    return [
        row
        for number, (name, (fusion, target)) in enumerate(FUSIONS.items())
        for row in _epochs_of(name, fusion, target, table, encoders, setting, setting.place(f"cache-{number}"))
    ]


def _epochs_of(
    name: str,
    fusion: Callable[[dict[str, int]], torch.nn.Module],
    target: int,
    table: Table,
    encoders: dict[str, torch.nn.Module],
    setting: Setting,
    place: Path,
) -> list[Row]:
    torch.manual_seed(0)
    model = MultimodalModel(encoders, fusion(dims_of(encoders)), {"label": Classification(WIDTH, CLASSES)})
    cached = cache_features(model, table, place, transforms=_steady(encoders), progress=False)
    batches = {one: load_batches(table, one, batch_size=2) for one in (model, cached)}
    in_memory = list(batches[cached])
    runs = [_epoch(model, batches[model]), _epoch(cached, batches[cached]), _epoch(cached, in_memory)]
    whole, ours = _in_pairs(runs[0], runs[1], 1 if setting.quick else 3)
    note = "" if setting.quick else "ViT-B/16, BERT-base, wav2vec2-base"
    begin = f"cached epoch, {name}:"
    at_least = setting.target(target)
    rows = [
        Row(f"{begin} times as fast as with the encoders", ours, whole, whole / ours, at_least, "ms", note, True),
        slower(setting, f"{begin} time to the same features in memory", runs[1], runs[2], 1 / 0.9),
    ]
    if "all to all" in name:  # what of its time could be saved at all
        rows.append(slower(setting, f"{begin} time to its matrix products alone", runs[1], replay(runs[2]), 1.5))
    return rows


def reading(setting: Setting) -> list[Row]:
    """Pooled features of many rows, in random order, in batches of 64."""
    count, width = (2_000, 768) if setting.quick else (20_000, 768)
    features = np.random.default_rng(0).standard_normal((count, width), dtype=np.float32)
    labels = [CLASSES[row % 4] for row in range(count)]
    table = read_table({"vector": features, "label": labels})
    encoders = {"vector": FeatureEncoder(width)}
    model = MultimodalModel(encoders, Concat(dims_of(encoders), 8), {"label": Classification(8, CLASSES)})
    cached = cache_features(
        model, table, setting.place("reading"), modalities=["vector"], batch_size=1000, progress=False
    )
    ours = load_batches(table, cached, train=True, batch_size=64)
    items = TensorDataset(torch.from_numpy(features), torch.arange(count) % 4)
    none, one = (
        DataLoader(items, batch_size=64, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
        for workers in (0, 1)
    )
    name = "reading cached features: times as fast as DataLoader, {} workers"
    mine, theirs = _fastest(lambda: _drain(ours), lambda: _drain(one), setting.rounds)
    rows = faster(setting, lambda: _drain(ours), {name.format(0): (lambda: _drain(none), 2)}, count)
    at_least, note = setting.target(15), "by the clock, the fastest of each"
    return [*rows, Row(name.format(1), count / mine, count / theirs, theirs / mine, at_least, "/s", note, True)]


def _encoders(table: Table, quick: bool) -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(table.column("text"), vocab_size=200)
    if quick:
        found = {
            "image": ViTEncoder.preset("tiny", size=224),
            "text": TextEncoder.preset("tiny", tokenizer=tokenizer, max_length=64),
            "audio": SpeechEncoder.preset("tiny"),
        }
    else:
        found = {
            "image": ViTEncoder({"model_type": "vit"}),
            "text": TextEncoder({"model_type": "bert", "max_position_embeddings": 64}, tokenizer=tokenizer),
            "audio": SpeechEncoder({"model_type": "wav2vec2"}),
        }
    return {name: encoder.requires_grad_(False) for name, encoder in found.items()}


def _table(count: int) -> Table:
    """Photos of 224 pixels, texts of 64 tokens and 5 s of sound, in memory."""
    random = np.random.default_rng(0)
    return read_table(
        {
            "image": random.integers(0, 256, (count, 3, 224, 224), dtype=np.uint8),
            "text": [" ".join(random.choice(WORDS, 62)) for _ in range(count)],
            "audio": [(random.standard_normal(80_000).astype(np.float32) / 9, 16_000) for _ in range(count)],
            "label": [CLASSES[row % 4] for row in range(count)],
        }
    )


def _steady(encoders: dict[str, torch.nn.Module]) -> dict:
    return {name: encoder.transform(train=False) for name, encoder in encoders.items()}  # type: ignore[operator]


def _epoch(model: MultimodalModel, batches: Iterable[Batch]) -> Run:
    optimizer = make_optimizer(parameter_groups(model))

    def run() -> None:
        for _ in train_epoch(model, batches, weigh=Sum(), optimizer=optimizer, clip=1.0):
            pass

    return run


def _in_pairs(slow: Run, fast: Run, rounds: int) -> tuple[float, float]:
    """Median milliseconds of both, in turn."""
    (first, second), _ = in_turn([slow, fast], rounds=rounds, seconds=(0.0, 1.0))
    return first, second


def _fastest(ours: Run, other: Run, rounds: int) -> tuple[float, float]:
    """Least seconds of both, in turn: a worker is another process, whose CPU time is not ours."""
    least = [float("inf")] * 2
    for turn in range(1 + rounds):
        for place, run in enumerate((ours, other)):
            began = time.perf_counter()
            run()
            if turn:  # the first one starts the worker
                least[place] = min(least[place], time.perf_counter() - began)
    return least[0], least[1]


def _drain(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


CASES: dict[str, Case] = {"cached epochs": epochs, "reading cached features": reading}
