"""Frozen encoders are run once: their features go into files, and a model that reads these is trained."""

import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from mmfuse._checks import require_choice, require_not_negative, require_positive, require_whole
from mmfuse.data.loading.dataset import TableDataset
from mmfuse.data.tables.table import Table
from mmfuse.data.transforms import Transform
from mmfuse.distributed import connect, is_main, together
from mmfuse.model import MultimodalModel
from mmfuse.training.bar import Bar
from mmfuse.training.caching.encode import Encoding, Reading
from mmfuse.training.caching.fill import fill
from mmfuse.training.caching.fingerprint import begin_or_compare, fingerprint
from mmfuse.training.caching.frozen import frozen_encoders, left_out, modalities_read_as_tokens, steady_transforms
from mmfuse.training.caching.stored import CachedEncoder, CachedTransform
from mmfuse.training.caching.turns import filling

KEEP = (None, "tokens", "pooled")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def cache_features(  # noqa: PLR0913  flat keywords, as of load_batches and fit
    model: MultimodalModel,
    table: Table,
    folder: str | Path,
    *,
    modalities: Collection[str] | None = None,
    keep: str | None = None,
    dtype: str = "float32",
    transforms: Mapping[str, Transform] | None = None,
    batch_size: int = 32,
    workers: int = 0,
    timeout: int | float = 300.0,
    on_error: str = "raise",
    max_errors: int | float | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> MultimodalModel:
    """Run the frozen encoders once over a table; returns the model to train, which reads their features from disk.

    It has the fusion, the tasks and the other encoders of ``model``: what is trained in one is trained in both. Load
    batches for it from the same table, or from parts of it, and give new data to ``model``::

        cached = cache_features(model, table, "features")
        fit(cached, load_batches(train, cached, train=True), load_batches(validation, cached), epochs=50)
        evaluate(model, load_batches(test, model))

    Features belong to the content of a cell, whatever row or path it has: what is stored already is not encoded again,
    an interrupted run goes on where it was, and several tables may share a folder. Under ``torchrun`` the processes
    share the work; a run that finds another one at work waits for it.

    Args:
        model: moved to ``device``. What is cached must be frozen, and answers as in evaluation.
        table: all rows that will be read.
        folder: where the features go. If it holds those of another encoder, transform or installation, it is refused.
        modalities: whose encoders are run; None: of all that are frozen.
        keep: "tokens" (and the pooled vector), or "pooled" alone; None: what the fusion reads, as far as a gradient
            from its answers in evaluation can tell.
        dtype: of the stored numbers. "float32" changes nothing; "float16" (to 2**-11 of a number) and "bfloat16"
            (to 2**-8) take half of the space.
        transforms: instead of the encoders' own in training; none may be random.
        batch_size: cells that are encoded together.
        workers: processes that read beside the main one.
        timeout: longest time to wait for a batch of the workers, in seconds; 0: for ever.
        on_error: "raise"; "absent" or "skip": what cannot be read is left out, and ``load_batches`` treats it as its
            own ``on_error`` says.
        max_errors: largest share of the rows with such a cell, as in ``load_batches``.
        device: where the encoders run; a GPU if there is one, if None.
        progress: say beforehand what it takes and saves, and show a bar.

    Raises:
        ValueError: an encoder is not frozen, a transform is random, or the folder holds other features or damaged ones.
        DataError: a cell cannot be read, or a worker died or hung.
        OSError: the disk is full. What was written is whole, and is used the next time.
    """
    require_whole("cache_features", batch_size=batch_size, workers=workers)
    require_positive("cache_features", batch_size=batch_size)
    require_not_negative("cache_features", workers=workers, timeout=timeout)
    require_choice("cache_features", "keep", keep, KEEP)
    require_choice("cache_features", "dtype", dtype, DTYPES)
    _require_table(table)
    chosen = frozen_encoders(model, modalities)
    steady = steady_transforms(chosen, transforms or {})
    errors: Any = {"on_error": on_error, "max_errors": max_errors}
    datasets = {name: TableDataset(table, {name: steady[name]}, {}, **errors) for name in chosen}
    connect()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(device)
    as_tokens = set(chosen) if keep == "tokens" else modalities_read_as_tokens(model)
    _require_tokens(keep, as_tokens & set(chosen))
    cached: dict[str, CachedEncoder] = {}
    if progress and is_main():
        for name, reason in left_out(model, chosen).items():
            Bar.write(f"{name}: not cached, {reason}.", file=sys.stderr)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with together(), filling(Path(folder)):
        for name, encoder in chosen.items():
            place = Path(folder) / _folder_of(name)
            place.mkdir(exist_ok=True)
            made_of = fingerprint(encoder, steady[name], dtype)
            tokens = begin_or_compare(place, made_of, name in as_tokens)
            encoding = Encoding(name, encoder, datasets[name], device, tokens=tokens, dtype=DTYPES[dtype])
            fill(encoding, place, Reading(batch_size, workers, timeout), progress=progress)
            read = CachedTransform(steady[name], place, encoder.dim, DTYPES[dtype], tokens=name in as_tokens)
            cached[name] = CachedEncoder(encoder, read, made_of["encoder"]["weights"])
    encoders = {name: cached.get(name, encoder) for name, encoder in model.encoders.items()}
    return MultimodalModel(encoders, model.fusion, dict(model.tasks.items()), missing=model.missing).to(device)


def _require_table(table: Table) -> None:
    if not isinstance(table, Table):
        raise TypeError(
            f"cache_features got a {type(table).__name__}. Expected a table, whose cells say which features are "
            "theirs. Read one with read_table(path)."
        )
    if not len(table):
        raise ValueError("cache_features got a table without rows. Expected one or more. Is it the right file?")


def _require_tokens(keep: str | None, read: Collection[str]) -> None:
    if keep == "pooled" and read:
        raise ValueError(
            f"cache_features got keep='pooled', but the model reads the tokens of {sorted(read)}. Expected what it "
            "reads: with one vector alone it would learn something else. Use keep=None, or a fusion of vectors."
        )


def _folder_of(name: str) -> str:
    """The name of a modality as that of a folder."""
    return name if re.fullmatch(r"\w[\w-]*", name) else f"modality-{name.encode().hex()}"
