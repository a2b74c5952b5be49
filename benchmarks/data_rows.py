"""G17 and what else is read as whole batches: features in memory, texts, rows of tables; series without packing."""

import time
from functools import partial

import numpy as np
import psutil
import torch
from common import Row
from data_files import texts
from data_measure import Case, Setting, faster, model_of, slower
from plain import data_rows
from torch.utils.data import DataLoader

from mmfuse.contracts import Input
from mmfuse.data import load_batches, read_table
from mmfuse.data.loading.load import BATCH_SIZE
from mmfuse.data.transforms import TabularTransform, TextTransform, train_tokenizer
from mmfuse.encoders import ProjectionEncoder, SeriesEncoder
from mmfuse.tasks import Classification

WIDTH, BATCH = 768, 256


def features(setting: Setting) -> list[Row]:
    """Two modalities of vectors in memory, shuffled, against a DataLoader with its default collation."""
    arrays = _arrays(1024 if setting.quick else 8192)
    rows, ours = len(arrays["label"]), _ours(arrays)
    other = DataLoader(data_rows.Rows(arrays), batch_size=BATCH, shuffle=True)
    others = {"features in memory: to a DataLoader without workers": (partial(_drain, other), 2.0)}
    return faster(setting, partial(_drain, ours), others, rows)


def features_of_worker(setting: Setting) -> list[Row]:
    """The same against a DataLoader with a worker: by the clock, as most of it is waiting, and in CPU time.

    To send a batch costs the worker much the same whatever it holds. The target is for batches of the size that
    ``load_batches`` makes unless told otherwise.
    """
    arrays = _arrays(1024 if setting.quick else 4096)
    rows, made = len(arrays["label"]), []
    for batch, target in ((BATCH_SIZE, 15.0), (BATCH, None)):
        ours = _ours(arrays, batch)
        items = data_rows.Rows(arrays)
        other = DataLoader(items, batch_size=batch, shuffle=True, num_workers=1, persistent_workers=True)
        _drain(ours), _drain(other)  # starts the worker
        pairs = [(_spent(ours), _spent(other)) for _ in range(1 + 2 * setting.rounds)]
        for place, kind, wanted in ((0, "wall time", target), (1, "CPU time of both processes", None)):
            # The best of all rounds: a clock also counts what other programs do.
            mine, others = (rows / min(pair[who][place] for pair in pairs) for who in (0, 1))
            name = f"features in memory, batches of {batch}: to a DataLoader with one worker, {kind}"
            made.append(Row(name, mine, others, mine / others, setting.target(wanted), "/s", at_least=True))
    return made


def text(setting: Setting) -> list[Row]:
    """A batch of 32 texts in one call, against a call for each. The longer they are, the less a call matters."""
    rows = []
    for words in ((5, 20), (5, 60)):
        written = texts(32, words=words)
        tokenizer = train_tokenizer(written)
        transform = TextTransform(tokenizer)
        name = f"text, 32 texts of {words[0]} to {words[1]} words"
        others = {
            f"{name}: to a call of the transform for each": (partial(_each, transform, written), 1.3),
            f"{name}: to a call of the tokenizer for each": (partial(_each, _ids_of(tokenizer), written), 1.3),
        }
        rows += faster(setting, partial(transform.batch, written), others, len(written))
    return rows


def _ids_of(tokenizer):
    return lambda text: torch.tensor(tokenizer(text)["input_ids"])


def _each(run, values) -> None:
    for value in values:
        run(value)


def tabular(setting: Setting) -> list[Row]:
    """A batch of rows of eight numbers and four categories, against row by row."""
    random = np.random.default_rng(0)
    transform = TabularTransform(
        numbers={f"n{i}": (0.0, 1.0) for i in range(8)}, categories={f"c{i}": list("abcd") for i in range(4)}
    )
    values = [
        {
            **{f"n{i}": f"{random.normal():.3f}" for i in range(8)},
            **{f"c{i}": random.choice(list("abcd")) for i in range(4)},
        }
        for _ in range(BATCH)
    ]

    def one_by_one() -> None:
        torch.stack([transform(value) for value in values])

    def together() -> None:
        torch.stack(transform.batch(values)[0])

    return faster(setting, together, {"tabular, 256 rows: to row by row": (one_by_one, None)}, len(values))


def series(setting: Setting) -> list[Row]:
    """Forward and backward of recurrent encoders over 500 padded steps, against the same cells over packed ones."""
    steps, batch, channels, dim = (50 if setting.quick else 500), 32, 8, 32
    lengths = torch.randint(steps // 5, steps + 1, (batch,))
    lengths[0] = steps
    mask = torch.arange(steps) < lengths[:, None]
    given = Input(torch.randn(batch, steps, channels) * mask[..., None], torch.ones(batch, dtype=torch.bool), mask)
    made = []
    for cell, target in (("gru", None), ("lstm", 0.15)):
        encoder = SeriesEncoder(dim, channels=channels, mean=[0.0] * channels, std=[1.0] * channels, cell=cell)
        cells = _cells(encoder, cell, channels, dim)
        ours = partial(_step, encoder, lambda encoder=encoder: encoder(given).pooled)
        other = partial(_step, cells, partial(data_rows.packed, cells, given.values, lengths))
        name = f"series of {steps} steps, {cell.upper()}: time to packed sequences"
        made.append(slower(setting, name, ours, other, target))
    return made


def _cells(encoder, cell: str, channels: int, dim: int) -> torch.nn.Module:
    """torch's own, as large as the encoder's."""
    cells = getattr(torch.nn, cell.upper())(channels, dim, batch_first=True)
    counts = [sum(p.numel() for p in module.parameters()) for module in (encoder, cells)]
    if not 0.9 < counts[0] / counts[1] < 1.1:
        raise AssertionError(f"the encoder has {counts[0]} parameters, torch's cells {counts[1]}")
    return cells


def _step(module: torch.nn.Module, forward) -> None:
    module.zero_grad(set_to_none=True)
    forward().square().mean().backward()


def _arrays(rows: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    made = {name: torch.randn(rows, WIDTH, generator=random) for name in ("first", "second")}
    return {**made, "label": torch.randint(0, 4, (rows,), generator=random)}


def _ours(arrays: dict[str, torch.Tensor], batch: int = BATCH):
    encoders = {name: ProjectionEncoder(16, width=WIDTH) for name in ("first", "second")}
    model = model_of(encoders, {"label": Classification(16, 4)})
    return load_batches(read_table(arrays), model, train=True, batch_size=batch)


def _drain(batches) -> None:
    for _ in batches:
        pass


def _spent(batches) -> tuple[float, float]:
    """Seconds of the clock, and of CPU here and in the workers."""
    began, busy = time.perf_counter(), _cpu_seconds()
    _drain(batches)
    return time.perf_counter() - began, max(_cpu_seconds() - busy, 1e-9)


def _cpu_seconds() -> float:
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children())]
    return time.process_time() + sum(each.user + each.system for each in times[1:])


CASES: dict[str, Case] = {
    "features": features,
    "features of a worker": features_of_worker,
    "text": text,
    "tabular": tabular,
    "series": series,
}
