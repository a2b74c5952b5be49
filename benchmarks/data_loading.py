"""What the loader adds to transforms that are called by hand, and how long training waits for it."""

import csv
from functools import partial
from pathlib import Path

from common import Row
from data_files import clips, photos
from data_measure import Case, Setting, model_of, slower
from plain import data_rows

from mmfuse import MultimodalModel, dims_of
from mmfuse.data import load_batches, read_table
from mmfuse.encoders import SpectrogramEncoder, ViTEncoder
from mmfuse.fusion import Concat
from mmfuse.tasks import Classification
from mmfuse.training import fit

BATCH, BATCHES = 16, 4  # and how many an epoch has


def images(setting: Setting) -> list[Row]:
    paths = photos(setting.place("loading"), 500, 375, 4 if setting.quick else 16)
    encoder = ViTEncoder.preset("tiny", size=224)
    rows = [_overhead(setting, "images of 500x375", "image", encoder, paths)]
    return [*rows, _overhead(setting, "images of 500x375, random crops", "image", encoder, paths, train=True)]


def sound(setting: Setting) -> list[Row]:
    folder, encoder = setting.place("loading"), SpectrogramEncoder.preset("tiny")
    rows = []
    for rate_hz in (44_100, 16_000):
        paths = clips(folder, "wav", 4 if setting.quick else 16, rate_hz=rate_hz)
        rows.append(_overhead(setting, f"sound, 5 s of wav at {rate_hz / 1000:g} kHz", "audio", encoder, paths))
    return rows


def _overhead(setting: Setting, name: str, modality: str, encoder, paths: list[Path], *, train: bool = False) -> Row:
    """Epochs of batches with masks, labels and checks, against the same transform and stacking alone."""
    paths = paths * BATCHES
    table = _table(modality, paths)
    model = model_of({modality: encoder}, {"label": Classification(4, ["a", "b"])})
    batches = load_batches(table, model, train=train, batch_size=BATCH)
    other = partial(data_rows.batches, paths, encoder.transform(train), BATCH)
    name = f"loading {name}: time to transforms and stacking alone"
    return slower(setting, name, partial(_drain, batches), lambda: _drain(other()), 1.05, unit=BATCHES)


def waiting(setting: Setting) -> list[Row]:
    """The share of its time that ``fit`` waits for photos, as its history has it; without a target."""
    paths = photos(setting.place("loading"), 500, 375, 4) * (4 if setting.quick else 64)
    table = _table("image", paths)
    rows = []
    for workers in (0, 1):
        encoders = {"image": ViTEncoder.preset("tiny", size=224)}
        tasks = {"label": Classification(32, ["a", "b"])}
        model = MultimodalModel(encoders, Concat(dims_of(encoders), 32), tasks)
        batches = load_batches(table, model, train=True, batch_size=BATCH, workers=workers)
        history = fit(model, batches, epochs=1 if setting.quick else 3, progress=False)
        share, seconds = history["wait_share"][-1], len(paths) / history["samples_per_second"][-1]
        name = f"training on images of 500x375, {workers} workers: time waiting, and in all"
        rows.append(Row(name, share * seconds, seconds, share, unit="s", note="by the clock, of a tiny ViT"))
    return rows


def _table(modality: str, paths: list[Path]):
    """A table file in their folder."""
    folder = paths[0].parent
    with (folder / f"{modality}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([modality, "label"])
        writer.writerows([path.name, "ab"[number % 2]] for number, path in enumerate(paths))
    return read_table(folder / f"{modality}.csv")


def _drain(batches) -> None:
    for _ in batches:
        pass


CASES: dict[str, Case] = {"loading images": images, "loading sound": sound, "waiting": waiting}
