"""Processes that read batches beside the main one, in any number, with the same result."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mmfuse.data.errors import DataError
from mmfuse.data.loading.batches import BatchDataset
from mmfuse.data.loading.ending import hold_workers
from mmfuse.data.loading.passes import BatchOrder, Pass, PassSampler
from mmfuse.data.loading.remote import Failure, RemoteTraceback, failure_of
from mmfuse.data.loading.report import Read
from mmfuse.data.loading.worker import Flight, holding_signals, outlive_signals


class Workers:
    """Reads the batches of a pass in several processes, which stay for the next pass.

    One that dies, or gives nothing for ``timeout`` seconds, ends the pass with a ``DataError`` that names its rows;
    the next pass has new ones.

    Args:
        dataset: what is read.
        order: which rows each batch holds.
        count: how many processes.
        timeout: longest time to wait for a batch, in seconds; 0: for ever.
        pin: put batches into page-locked memory.
    """

    def __init__(self, dataset: BatchDataset, order: BatchOrder, count: int, *, timeout: float, pin: bool) -> None:
        self._dataset = dataset
        self._sampler = PassSampler(order)
        self._count = count
        self._timeout = timeout
        self._pin = pin
        self._flight: Flight | None = None
        self._pass = object()  # the one for which the workers read

    def reads(self, now: Pass) -> Iterator[Read]:
        """What is read of each batch of a pass, in their order."""
        self._sampler.now = now
        if self._flight is None or self._flight.broken:
            self._start()
        flight: Any = self._flight
        message = ""
        try:
            yield from self._watched(flight)
        except (RuntimeError, EOFError, OSError) as error:
            if not flight.concerns(error):
                raise
            message = flight.explain(error, self._timeout)
        if message:  # not in the except: the error would keep the workers alive
            flight.stop()
            self._start()
            raise DataError(message)

    def _start(self) -> None:
        self._flight = Flight(self._count, self._dataset.place)
        self._loader = DataLoader(
            _Reader(self._dataset, self._flight),
            batch_sampler=self._sampler,
            collate_fn=_as_it_is,
            num_workers=self._count,
            persistent_workers=True,
            pin_memory=self._pin,
            timeout=self._timeout,
            worker_init_fn=outlive_signals,
            # iter() would draw from the global one
            generator=torch.Generator().manual_seed(self._sampler.order.seed % 2**63),
        )

    def _watched(self, flight: Flight) -> Iterator[Read]:
        with holding_signals():
            batches = iter(self._loader)  # starts the workers
        hold_workers(self._loader, batches)
        flight.watch()
        self._pass = this = object()
        for read in batches:
            yield _raised(read)
            if self._pass is not this:  # the workers read for that one now
                raise RuntimeError(
                    "A pass over a Loader goes on after another has begun. Expected one pass at a time, since both "
                    "share the workers. Use workers=0, or a Loader for each."
                )


class _Reader(Dataset):
    """Reads whole batches in a worker, and says in which row it is."""

    def __init__(self, dataset: BatchDataset, flight: Flight) -> None:
        self.dataset = dataset
        self.flight = flight

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, key: tuple[Pass, list[int]]) -> Read | Failure:
        """A DataError is handed on as a value: raised in a worker, its message would arrive inside a traceback."""
        now, rows = key
        worker = get_worker_info().id  # type: ignore[union-attr]
        self.dataset.mark = self.flight.begin(worker, rows)
        try:
            self.dataset.begin(now)
            return self.dataset.read(torch.tensor(rows), now.epoch)
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
