"""G29: what tables of a million rows cost: memory of a worker, bytes held, time to start; shards as a stream."""

import csv
import gc
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import torch
from common import Row
from data_files import big_csv
from data_measure import Case, Setting, handing_out, model_of, slower

from mmfuse.data import load_batches, load_shards, read_table, write_shards
from mmfuse.tasks import Classification

MIB = 2**20


class PrivateMemory:
    """A transform whose result is how many bytes its process has for itself, counted at every tenth batch."""

    takes_path = False
    padding = None
    random = False

    def __init__(self) -> None:
        self.calls = self.used = 0

    def __call__(self, value: str) -> torch.Tensor:
        return self.batch([value])[0][0]

    def batch(self, values: list[str]) -> tuple[list[torch.Tensor], list[int]]:
        if self.calls % 10 == 0:
            self.used = psutil.Process().memory_full_info().uss
        self.calls += 1
        return [torch.tensor([self.used], dtype=torch.float64)] * len(values), [0] * len(values)

    def blank(self) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.float64)


def worker(setting: Setting) -> list[Row]:
    """Memory that a worker has for itself after an epoch, by rows of the table."""
    sizes = (1000, 30_000) if setting.quick else (1000, 10_000, 100_000, 1_000_000)
    used = {rows: _of_worker(big_csv(setting.place("memory") / f"{rows}.csv", rows)) for rows in sizes}
    first = sizes[0]
    made = []
    for rows in sizes[1:]:
        slope = (used[rows] - used[first]) / (rows - first)
        name = f"memory of a worker: {rows:,} rows to {first:,}"
        made.append(_mib(name, used[rows], used[first], 1.05, f"{slope:.1f} bytes a row"))
    return made


def _of_worker(path: Path) -> float:
    table = read_table(path)
    return _most(load_batches(table, _model(), train=True, batch_size=250, workers=1))


def _most(batches) -> float:
    """The most of at least 40 batches: after a few, a worker has all that it needs."""
    used = 0.0
    for _ in range(-(-40 // len(batches))):
        used = max(used, *(float(batch.inputs["text"].values[0, 0]) for batch in batches))
    return used


def _model():
    transform = PrivateMemory()
    return model_of({"text": handing_out(transform)}, {"label": Classification(4, ["a", "b"])})


def held(setting: Setting) -> list[Row]:
    """Bytes that a table holds in this process, to those of its file."""
    rows = 30_000 if setting.quick else 1_000_000
    path = big_csv(setting.place("memory") / f"{rows}.csv", rows)
    read_table(path)
    before = _private()
    table = read_table(path)
    bytes_a_row = (_private() - before) / len(table)
    size = path.stat().st_size / rows
    name = f"memory of a table of {rows:,} rows: to its file"
    return [Row(name, bytes_a_row, size, bytes_a_row / size, unit="bytes a row")]


def start(setting: Setting) -> list[Row]:
    """From a CSV file to the first batch, against the module csv alone."""
    rows = 30_000 if setting.quick else 1_000_000
    path = big_csv(setting.place("memory") / f"{rows}.csv", rows)

    def ours() -> None:
        next(iter(load_batches(read_table(path), _model(), train=True)))

    began = time.process_time()
    ours()
    seconds = time.process_time() - began
    name = f"start with a table of {rows:,} rows: time to csv.reader alone"
    made = slower(setting, name, ours, partial(_csv_alone, path), None)
    seconds = min(seconds, made.ours / 1000)
    limit = Row(f"start with a table of {rows:,} rows: CPU time to 5 s", seconds, 5, seconds / 5, 1, "s")
    return [made, limit]


def _csv_alone(path: Path) -> None:
    with path.open(newline="") as file:
        for _ in csv.reader(file):
            pass


def shards(setting: Setting) -> list[Row]:
    """Memory that a worker has for itself while it streams shards, by samples."""
    sizes = (1000, 3000) if setting.quick else (1000, 100_000)
    used = {}
    for rows in sizes:
        folder = setting.place("shards") / str(rows)
        write_shards(_samples(rows), folder, per_shard=500)
        used[rows] = _of_stream(folder)
    name = f"memory of streaming shards: {sizes[1]:,} samples to {sizes[0]:,}"
    slope = (used[sizes[1]] - used[sizes[0]]) / (sizes[1] - sizes[0])
    return [_mib(name, used[sizes[1]], used[sizes[0]], 1.05, f"{slope:.1f} bytes a sample")]


def _samples(rows: int) -> Iterator[dict[str, str]]:
    return ({"text": f"the text of number {i}", "label": "ab"[i % 2]} for i in range(rows))


def _of_stream(folder: Path) -> float:
    return _most(load_shards(folder, _model(), train=True, batch_size=250, buffer=1000, workers=1))


def _private() -> int:
    gc.collect()
    return psutil.Process().memory_full_info().uss


def _mib(name: str, ours: float, other: float, target: float, note: str) -> Row:
    return Row(name, ours / MIB, other / MIB, ours / other, target, "MiB", note)


CASES: dict[str, Case] = {
    "memory of a worker": worker,
    "memory of a table": held,
    "start": start,
    "memory of shards": shards,
}
