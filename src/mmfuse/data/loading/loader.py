"""Batches of a table, in an order that is a function of the seed and the epoch."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mmfuse._checks import require_not_negative, require_positive, require_whole
from mmfuse.contracts import Batch
from mmfuse.data.errors import DataError
from mmfuse.data.loading.batches import BatchDataset
from mmfuse.data.loading.chosen import transforms_of
from mmfuse.data.loading.dataset import TableDataset
from mmfuse.data.loading.mixup import Mixup, require_training
from mmfuse.data.loading.order import Order, OrderOfLists
from mmfuse.data.loading.remote import Failure, RemoteTraceback, failure_of
from mmfuse.data.loading.report import Read
from mmfuse.data.loading.samples import SampleDataset
from mmfuse.data.loading.trainable import require_trainable
from mmfuse.data.loading.worker import Flight
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
) -> "Loader":
    """Batches of a table for a model: its encoders say how to read, its tasks what the labels mean.

    Args:
        table: from :func:`read_table`: a modality or label is read from the column of its name. Or any torch
            ``Dataset`` of :class:`Sample`, with tensors as the encoders take them.
        model: a ``MultimodalModel`` (or anything with ``encoders`` and ``tasks``).
        train: shuffle in every epoch, augment where the transforms do, and ask for labels and modalities to learn from.
        batch_size: samples in a batch; the last one may be smaller.
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
    loader = Loader(dataset, batch_size=batch_size, shuffle=train, workers=workers, seed=seed, mix=mix, timeout=timeout)
    if train and isinstance(dataset, TableDataset):
        require_trainable(dataset)
    return loader


class Loader:
    """Iterates over the batches of a dataset; each pass is the next epoch, with an order of its own if shuffled.

    ``epoch`` is the epoch of the next pass; set it to go on from there. ``dataset.report`` says what could not be
    read. A worker that dies, or gives nothing for ``timeout`` seconds, ends the pass with a ``DataError`` that names
    the rows it was reading.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        *,
        batch_size: int = 32,
        shuffle: bool = False,
        workers: int = 0,
        seed: int = 0,
        mix: Mixup | None = None,
        timeout: float = 300.0,
    ) -> None:
        require_whole("Loader", batch_size=batch_size, workers=workers)
        require_positive("Loader", batch_size=batch_size)
        require_not_negative("Loader", workers=workers, timeout=timeout)
        if not len(dataset):
            raise DataError(f"{dataset.name} has no rows. Expected at least one. Is it the right file, or split?")
        if mix is not None:
            mix.require_tasks(dataset.tasks)
        self.dataset = dataset
        self.shuffled = shuffle
        self.epoch = 0
        self._mix = mix
        self._seed = seed
        self._order = Order(len(dataset), batch_size, shuffle=shuffle, seed=seed)
        self._workers = workers
        self._timeout = timeout
        self._pin = torch.cuda.is_available()
        self._flight: Flight | None = None
        self._pass = object()  # the one for which the workers read

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        self.epoch += 1
        for _, batch in self._batches(epoch):
            yield batch

    @property
    def mixes(self) -> bool:
        """Whether labels are mixed with one another."""
        return self._mix is not None

    def rows(self) -> list[int]:
        """The numbers of the rows of the last pass that was begun, in their order."""
        return [row for _, rows in self._order for row in rows.tolist()]

    def _batches(self, epoch: int, first: int = 0) -> Iterator[tuple[int, Batch]]:
        """The batches of an epoch, each with its number; the order begins with the one of number ``first``."""
        for number, read in enumerate(self._reads(epoch), first):
            batch = self.dataset.accept(read)
            if self._mix is not None:
                batch = self._mix(batch, self.dataset.tasks, self.dataset.transforms, (self._seed, epoch, number))
            yield number, batch
        if self.shuffled:
            self.dataset.report.require_any_modality()

    def _reads(self, epoch: int) -> Iterator[Read]:
        self._order.epoch = epoch
        if self._workers:
            yield from self._reads_of_workers()
            return
        # A DataLoader would add a third to the time of a batch of features that are in memory.
        for epoch, rows in self._order:
            read = self.dataset.read(rows, epoch)
            yield read.pin_memory() if self._pin else read

    def _start_workers(self) -> None:
        self._flight = Flight(self._workers, self._order.batch_size, self.dataset.place)
        self._loader = DataLoader(
            _Reader(self.dataset, self._flight),
            batch_sampler=OrderOfLists(self._order),
            collate_fn=_as_it_is,
            num_workers=self._workers,
            persistent_workers=True,
            pin_memory=self._pin,
            timeout=self._timeout,
            generator=torch.Generator().manual_seed(self._seed % 2**63),  # iter() would draw from the global one
        )

    def _reads_of_workers(self) -> Iterator[Read]:
        if self._flight is None or self._flight.broken:
            self._start_workers()
        flight: Any = self._flight
        message = ""
        try:
            yield from self._watched(flight)
        except RuntimeError as error:
            if not flight.concerns(error):
                raise
            message = flight.explain(error, self._timeout)
        if message:  # not in the except: the error would keep the workers alive
            flight.stop()
            self._start_workers()
            raise DataError(message)

    def _watched(self, flight: Flight) -> Iterator[Read]:
        batches = iter(self._loader)  # starts the workers
        flight.watch()
        self._pass = this = object()
        for read in batches:
            yield _raised(read)
            if self._pass is not this:  # the workers read for that one now
                raise RuntimeError(
                    "A pass over a Loader goes on after another has begun. Expected one pass at a time, since both "
                    "share the workers. Use workers=0, or a Loader for each."
                )


def tell_dropped(batches: Any, stacklevel: int) -> None:
    """Warn of what a loader could not read or has cut off, unless that was told; other batches have nothing to tell."""
    report = getattr(getattr(batches, "dataset", None), "report", None)
    if report is not None and (news := report.news()):
        warnings.warn(news, stacklevel=stacklevel)


class _Reader(Dataset):
    """Reads whole batches in a worker, and says in which row it is."""

    def __init__(self, dataset: BatchDataset, flight: Flight) -> None:
        self.dataset = dataset
        self.flight = flight

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, key: tuple[int, list[int]]) -> Read | Failure:
        """A DataError is handed on as a value: raised in a worker, its message would arrive inside a traceback."""
        epoch, rows = key
        worker = get_worker_info().id  # type: ignore[union-attr]
        self.dataset.mark = self.flight.begin(worker, rows)
        try:
            return self.dataset.read(torch.tensor(rows), epoch)
        except DataError as error:
            return failure_of(error)
        finally:
            self.flight.end(worker)


def _raised(read: Read | Failure) -> Read:
    """What a worker has read, or the error that it sent."""
    if isinstance(read, Failure):
        # Not held by a name here: an error and the frame that holds it would keep the workers alive.
        raise DataError(read.message) from (RemoteTraceback(read.trace) if read.trace else None)
    return read


def _as_it_is(read: Any) -> Any:
    return read
