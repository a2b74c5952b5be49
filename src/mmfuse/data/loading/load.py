"""``load_batches``: from a table and a model to batches."""

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from mmfuse._checks import require_kind, require_numbers, require_positive, require_switches, require_whole
from mmfuse.data.loading.batches import BatchDataset
from mmfuse.data.loading.buckets import BucketOrder
from mmfuse.data.loading.chosen import transforms_of
from mmfuse.data.loading.dataset import TableDataset
from mmfuse.data.loading.lengths import BucketBy, measured, require_fit
from mmfuse.data.loading.loader import Loader
from mmfuse.data.loading.mixup import Mixup, require_training
from mmfuse.data.loading.order import Order
from mmfuse.data.loading.passes import BatchOrder
from mmfuse.data.loading.samples import SampleDataset
from mmfuse.data.loading.trainable import require_trainable
from mmfuse.data.tables.table import Table
from mmfuse.data.transforms import Transform

BATCH_SIZE = 32


def load_batches(  # noqa: PLR0913  flat keywords, as of torch's DataLoader
    table: Table | Dataset,
    model: Any,
    *,
    train: bool = False,
    batch_size: int | None = None,
    max_tokens: int | float | None = None,
    bucket_by: BucketBy | None = None,
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
        batch_size: samples in a batch of each process; the last one may be smaller. None: 32. With ``max_tokens``: the
            most samples; None: four times as many as of mean cost fit in.
        max_tokens: put as many samples of similar length into a batch as cost at most so much, padding included, and
            a sample what ``bucket_by`` says. It may be left out where the model has one modality of sequences.
        bucket_by: put samples of similar length into a batch. By one modality, ``"text"``, in its steps (ids, samples
            of sound, rows of features), or a column of numbers; by several, ``{"text": 1, "audio": 1 / 320}``; by a
            function of the lengths, ``lambda lengths: lengths["text"] ** 2 + lengths["audio"]``, which gets arrays and
            never falls as they grow; or by a number for each row. Lengths are told by tokenizers and the headers of
            files; no sound and no array is read for it.
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
    require_switches("load_batches", train=train, check_finite=check_finite, cache=cache)
    require_whole("load_batches", seed=seed)
    require_numbers("load_batches", timeout=timeout, **({} if max_errors is None else {"max_errors": max_errors}))
    if transforms is not None:
        mend = "some by modality. Give transforms={'text': ...}"
        require_kind("load_batches", "transforms", transforms, Mapping, mend)
    given = {"batch_size": batch_size, "max_tokens": max_tokens}
    require_whole("Loader", **({} if batch_size is None else {"batch_size": batch_size}))
    require_positive("Loader", **{name: value for name, value in given.items() if value is not None})
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
    order: BatchOrder
    weights: dict[str, int | float]
    if max_tokens is None and bucket_by is None:
        order, weights = Order(len(dataset), batch_size or BATCH_SIZE, shuffle=train, seed=seed), {}
    else:
        order, weights = _buckets(dataset, bucket_by, batch_size, max_tokens, train, seed)
    loader = Loader(dataset, order, workers=workers, mix=mix, timeout=timeout, weights=weights)
    if train and isinstance(dataset, TableDataset):
        require_trainable(dataset)
    return loader


def _buckets(
    dataset: BatchDataset,
    by: BucketBy | None,
    batch_size: int | None,
    max_tokens: int | float | None,
    train: bool,
    seed: int,
) -> tuple[BucketOrder, dict[str, int | float]]:
    lengths, cost, weights = measured(dataset, by)
    if max_tokens is None:
        batch_size = batch_size or BATCH_SIZE
    else:
        require_fit(dataset, cost(lengths), max_tokens)
    limits: Any = {"batch_size": batch_size, "max_tokens": max_tokens}
    return BucketOrder(lengths, cost, **limits, shuffle=train, seed=seed), weights
