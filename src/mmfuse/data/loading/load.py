"""``load_batches``: from a table and a model to batches."""

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from mmfuse._checks import require_positive, require_whole
from mmfuse.data.loading.batches import BatchDataset
from mmfuse.data.loading.chosen import transforms_of
from mmfuse.data.loading.dataset import TableDataset
from mmfuse.data.loading.loader import Loader
from mmfuse.data.loading.mixup import Mixup, require_training
from mmfuse.data.loading.order import Order
from mmfuse.data.loading.samples import SampleDataset
from mmfuse.data.loading.trainable import require_trainable
from mmfuse.data.tables.table import Table
from mmfuse.data.transforms import Transform


def load_batches(  # noqa: PLR0913  flat keywords, as of torch's DataLoader
    table: Table | Dataset,
    model: Any,
    *,
    train: bool = False,
    batch_size: int = 32,
    workers: int = 0,
    seed: int = 0,
    on_error: str = "raise",
    max_errors: float | None = None,
    check_finite: bool = True,
    cache: bool = False,
    transforms: Mapping[str, Transform] | None = None,
    mix: Mixup | None = None,
    timeout: float = 300.0,
) -> Loader:
    """Batches of a table for a model: its encoders say how to read, its tasks what the labels mean.

    Under ``torchrun`` each process gets its part of every epoch.

    Args:
        table: from :func:`read_table`: a modality or label is read from the column of its name. Or any torch
            ``Dataset`` of :class:`Sample`, with tensors as the encoders take them.
        model: a ``MultimodalModel`` (or anything with ``encoders`` and ``tasks``).
        train: shuffle in every epoch, augment where the transforms do, and ask for labels and modalities to learn from.
        batch_size: samples in a batch of each process; the last one may be smaller.
        workers: processes that read beside the main one.
        seed: of order, augmentation and mixing.
        on_error: what a cell that cannot be read does: ``"raise"``; ``"absent"`` makes its modality absent; ``"skip"``
            makes the row count for nothing, so that every epoch keeps its number of batches. Both are counted.
        max_errors: largest share of rows with such a cell, at least one row; None: 1 % with ``"skip"``,
            half of them with ``"absent"``. 1.0 is no limit.
        check_finite: a NaN or an infinity in an input cannot be read either.
        cache: keep what was read in memory, for tables whose rows share files.
        transforms: instead of the encoders' own, for some modalities.
        mix: mixes the samples of each batch; only to train.
        timeout: longest time to wait for a batch of the workers, in seconds; 0: for ever.
    """
    require_whole("Loader", batch_size=batch_size)
    require_positive("Loader", batch_size=batch_size)
    chosen = transforms_of("load_batches", model, transforms, train=train)
    errors: Any = {"on_error": on_error, "max_errors": max_errors, "check_finite": check_finite, "seed": seed}
    dataset: BatchDataset
    if isinstance(table, Table):
        if train:
            for name in model.tasks:
                table.require_column(name)
        dataset = TableDataset(table, chosen, model.tasks, cache=cache, **errors)
    else:
        dataset = SampleDataset(table, chosen, model.tasks, **errors)
    require_training("load_batches", mix, train=train)
    order = Order(len(dataset), batch_size, shuffle=train, seed=seed)
    loader = Loader(dataset, order, workers=workers, mix=mix, timeout=timeout)
    if train and isinstance(dataset, TableDataset):
        require_trainable(dataset)
    return loader
