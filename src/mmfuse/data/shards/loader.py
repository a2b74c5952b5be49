"""Batches of shards, in an order that is a function of the seed and the epoch, and that can be taken up anywhere."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmfuse._checks import require_known_names, require_positive, require_whole
from mmfuse.data.errors import DataError
from mmfuse.data.loading.chosen import transforms_of
from mmfuse.data.loading.lengths import BucketBy
from mmfuse.data.loading.loader import Loader
from mmfuse.data.loading.mixup import Mixup, require_training
from mmfuse.data.shards.cells import Columns, names_of, require_column
from mmfuse.data.shards.dataset import ShardDataset, columns_of
from mmfuse.data.shards.index import find_shards, read_shards
from mmfuse.data.shards.lengths import lengths_of
from mmfuse.data.shards.order import Order
from mmfuse.data.transforms import Transform


def load_shards(  # noqa: PLR0913  flat keywords, as of load_batches
    shards: str | Path | Sequence[str | Path],
    model: Any,
    *,
    columns: Columns | None = None,
    train: bool = False,
    batch_size: int = 32,
    bucket_by: BucketBy | None = None,
    workers: int = 0,
    seed: int = 0,
    buffer: int = 1000,
    on_error: str = "raise",
    max_errors: float | None = None,
    check_finite: bool = True,
    transforms: Mapping[str, Transform] | None = None,
    mix: Mixup | None = None,
    timeout: float = 300.0,
    max_bytes: int = 2**28,
) -> Loader:
    """Batches of tar shards in the format of WebDataset, read as a stream: for data too large for a table.

    Members ``000123.jpg``, ``000123.txt`` and ``000123.json`` are one sample. A modality or label is read from the
    member of its name (``000123.image.jpg`` for ``image``), else from the member that usually has it (``jpg`` or
    ``png`` for ``image``, ``wav`` for ``audio``, ``txt`` for ``text``, ``cls`` for ``label``), else from the value of
    its name in the JSON. What a sample lacks is absent.

    Every epoch has each sample once, over all ranks, and every rank makes as many steps. Batches do not depend on
    ``workers``. ``position`` and ``start`` of the loader skip what was used by the headers: nothing is decoded for it.

    Args:
        shards: a folder, a pattern such as ``train-*.tar`` or ``train-{000000..000099}.tar``, or a list of paths.
        model: a ``MultimodalModel`` (or anything with ``encoders`` and ``tasks``).
        columns: names that differ: ``{"image": "left.png", "emotion": "cls", "audio": None}``; several are tried in
            turn, and None says that there is none.
        train: shuffle shards, and samples in the buffer, in every epoch; augment where the transforms do.
        batch_size: samples in a batch on each rank; the last ones may be smaller.
        bucket_by: put samples of the buffer that are alike into a batch: by one modality, ``"audio"``, by several,
            ``{"audio": 1, "text": 10}``, by a function of the lengths, or by a number for each sample. A length is the
            size of the modality's members in bytes, which the headers say; all of them are read for it beforehand.
        workers: processes that read beside the main one. Each skips what the others read by its headers.
        seed: of order, augmentation and mixing.
        buffer: samples that are shuffled together: as many are in memory, as they are in the shard. Choose several
            times the samples of a shard if those were not shuffled when they were written.
        on_error: what a member that cannot be read does, as in ``load_batches``. A damaged tar always raises.
        max_errors: largest share of samples with such a member; None: 1 % with ``"skip"``, half with ``"absent"``;
            1.0 is no limit.
        check_finite: a NaN or an infinity in an input cannot be read either.
        transforms: instead of the encoders' own, for some modalities.
        mix: mixes the samples of each batch; only to train.
        timeout: longest time to wait for a batch of the workers, in seconds.
        max_bytes: a larger member cannot be read.
    """
    require_whole("load_shards", batch_size=batch_size, workers=workers, buffer=buffer)
    require_positive("load_shards", batch_size=batch_size, buffer=buffer, max_bytes=max_bytes)
    require_training("load_shards", mix, train=train)
    chosen = transforms_of("load_shards", model, transforms, train=train)
    inputs = [column for name, transform in chosen.items() for column in columns_of(name, transform)]
    require_known_names("load_shards(columns=...)", columns or {}, [*inputs, *model.tasks], "column")
    names = names_of(columns or {}, [*inputs, *model.tasks])

    found = read_shards(find_shards(shards))
    if not sum(shard.samples for shard in found):
        raise DataError(f"The {len(found)} shards have no sample. Expected one or more. Are they the right files?")
    known = {column for shard in found for column in shard.columns}
    for column in [*inputs, *(model.tasks if train else ())]:
        require_column(column, names[column], known)

    order = Order(tuple(shard.samples for shard in found), int(batch_size), train, int(buffer), int(seed))
    if bucket_by is not None:
        sizes = {name: [names[column] for column in columns_of(name, chosen[name])] for name in chosen}
        order = replace(order, lengths=lengths_of(found, sizes, bucket_by))
    _tell(sum(shard.passed_over for shard in found))
    errors = {"on_error": on_error, "max_errors": max_errors, "check_finite": check_finite}
    dataset = ShardDataset(found, names, order, chosen, model.tasks, max_bytes=max_bytes, errors=errors)
    return Loader(dataset, order, workers=workers, mix=mix, timeout=timeout)


def _tell(passed_over: int) -> None:
    if passed_over:
        warnings.warn(
            f"{passed_over} members of the shards have no key or no extension, such as README, and were passed over.",
            stacklevel=3,
        )
