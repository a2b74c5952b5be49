"""Batches of a dataset, cut among the ranks, in an order that is a function of the seed and the epoch."""

import json
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from mmfuse._checks import require_not_negative, require_whole
from mmfuse.contracts import Batch
from mmfuse.data.errors import DataError
from mmfuse.data.loading.batches import BatchDataset
from mmfuse.data.loading.mixup import Mixup
from mmfuse.data.loading.padding import Padding
from mmfuse.data.loading.passes import BatchOrder, Pass, require_same_order
from mmfuse.data.loading.ranks import rank_and_world
from mmfuse.data.loading.report import Read
from mmfuse.data.loading.workers import Workers
from mmfuse.distributed import gather_texts, is_main, world


class Loader:
    """Iterates over the batches of a dataset; each pass is the next epoch, with an order of its own if shuffled.

    ``epoch`` is the epoch of the next pass; set it to go on from there. ``dataset.report`` says what could not be
    read. A worker that dies, or gives nothing for ``timeout`` seconds, ends the pass with a ``DataError`` that names
    the rows it was reading.

    Several processes share each epoch (``torchrun``, or ``torch.distributed``): who takes part is looked up when a
    pass begins. Every sample comes once over all of them, and all have as many batches, ``len(loader)``. Where there
    is no sample left for one, it gets a blank row, without any modality and any label, which counts for nothing.

    ``position(batches)`` says where a pass stands, and ``start(position)`` goes on there, in another process too.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        order: BatchOrder,
        *,
        workers: int = 0,
        mix: Mixup | None = None,
        timeout: float = 300.0,
        weights: Mapping[str, int | float] | None = None,
    ) -> None:
        require_whole("Loader", workers=workers)
        require_not_negative("Loader", workers=workers, timeout=timeout)
        if not len(dataset):
            raise DataError(f"{dataset.name} has no rows. Expected at least one. Is it the right file, or split?")
        if mix is not None:
            mix.require_tasks(dataset.tasks)
        self.dataset = dataset
        self.shuffled = order.shuffle
        self._order = order
        self._mix = mix
        self._weights = weights or {}  # of a step of each modality in the share of padding
        self._padding = Padding(self._weights)
        self._pin = torch.cuda.is_available()
        self._workers = Workers(dataset, order, workers, timeout=timeout, pin=self._pin) if workers else None
        self._next = Pass(0)  # its rank and world are looked up when it begins
        self._now: Pass | None = None  # the last one that was begun

    def __repr__(self) -> str:
        order = "shuffled" if self.shuffled else "in order"
        return (
            f"Loader({self.dataset.name}: {len(self.dataset)} rows, {len(self)} batches, {order}, "
            f"modalities {list(self.dataset.transforms)})"
        )

    def __len__(self) -> int:
        """Batches of a whole epoch, on each rank."""
        return self._order.steps(Pass(self.epoch, *rank_and_world()))

    def __iter__(self) -> Iterator[Batch]:
        now = self._upcoming()
        self._now, self._next, self._padding = now, Pass(now.epoch + 1), Padding(self._weights)
        return self._batches(now)

    @property
    def epoch(self) -> int:
        """The epoch of the next pass. Setting another one begins it from its first batch."""
        return self._next.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        if epoch != self._next.epoch:
            self._next, self._now = Pass(epoch), None

    @property
    def padding(self) -> dict[str, float]:
        """Share of the steps that are padding in the last pass so far, by modality, and over all as ``"total"``.

        A step of each modality counts there as the weights of ``bucket_by`` say, else 1.
        """
        return self._padding.shares

    @property
    def mixes(self) -> bool:
        """Whether labels are mixed with one another."""
        return self._mix is not None

    @property
    def settings(self) -> dict[str, Any]:
        """What its batches are made by: rows, seed, size and more of their order; plain JSON."""
        return {**self._order.identity, **self._order.settings}

    def rows(self) -> list[int]:
        """Number of the row of each sample, in the order in which the last pass that was begun hands them out here.

        A blank row is -1. Over all ranks, every other number comes once; to put answers back into the order of the
        table, gather them with these numbers, leave out -1 and sort.
        """
        now = self._now or self._upcoming()
        rows = [list(map(int, some)) for some in self._order.rows(now)]
        return [row for some in rows for row in some] + [-1] * (self._order.steps(now) - len(rows))

    def rows_of(self, first: int, count: int) -> list[list[int]]:
        """Numbers of the rows of so many batches, from number ``first`` on, from 0, of the last pass that was begun.

        A blank batch, and one beyond the end, has none.
        """
        rows = self._order.rows(self._now or self._upcoming())
        found = [list(map(int, some)) for some in islice(rows, first, first + count)]
        return found + [[] for _ in range(count - len(found))]

    def position(self, batches: int) -> dict[str, Any]:
        """Where the last pass that was begun stands after so many of its batches were used; before any, the next pass.

        Plain JSON, the same on every rank. Batches that were read ahead do not count: the caller says how many it
        used, from the beginning of the pass, also of one that itself went on from a position.
        """
        now = self._now or self._upcoming()
        cuts = self._order.after(now, batches)
        return {"epoch": now.epoch, "cuts": [dict(cut) for cut in cuts], "order": self._order.identity}

    def start(self, position: Mapping[str, Any]) -> None:
        """Let the next pass hand out what is left of an epoch: the same batches, with any number of workers.

        With another ``batch_size``, or on another number of ranks, the samples that are left are cut anew, so that
        each still comes once. If none is left, the pass has no batch.

        Raises:
            ValueError: the position is one of other rows, or of another seed or order.
        """
        require_same_order(position, self._order, self.dataset.name)
        self._next = Pass(int(position["epoch"]), cuts=tuple(position["cuts"]))
        self._now = None

    def _upcoming(self) -> Pass:
        rank, world = rank_and_world()
        return Pass(self._next.epoch, rank, world, self._next.cuts)

    def _batches(self, now: Pass) -> Iterator[Batch]:
        number = 0
        for read in self._reads(now):
            yield self._accept(read, now)
            number += 1
        for _ in range(number, self._order.steps(now)):
            yield self.dataset.blank()
        if self.shuffled:
            self.dataset.report.require_any_modality()

    def _accept(self, read: Read, now: Pass) -> Batch:
        batch = self.dataset.accept(read)
        self._padding.add(batch)
        if self._mix is None:
            return batch
        key = (self._order.seed, now.epoch)
        return self._mix(batch, self.dataset.tasks, self.dataset.transforms, key, read.rows)

    def _reads(self, now: Pass) -> Iterator[Read]:
        if self._workers is not None:
            yield from self._workers.reads(now)
            return
        # A DataLoader would add a third to the time of a batch of features that are in memory.
        for rows in self._order.rows(now):
            self.dataset.begin(now)
            read = self.dataset.read(torch.as_tensor(rows), now.epoch)
            yield read.pin_memory() if self._pin else read


def tell_dropped(batches: Any, stacklevel: int) -> None:
    """Warn of what a loader could not read or has cut off, unless that was told; other batches have nothing to tell.

    Every process calls it, and rank 0 tells it.
    """
    report = report_of_all(batches)
    if report is not None and (news := report.news()) and is_main():
        warnings.warn(news, stacklevel=stacklevel)


def report_of_all(batches: Any) -> Any:
    """The report of a loader, which then holds what all processes have met; None for other batches.

    Every process calls it.
    """
    report = getattr(getattr(batches, "dataset", None), "report", None)
    if report is not None and world() > 1:
        for state in gather_texts(json.dumps(report.state_dict())):
            report.merge(json.loads(state))
    return report
