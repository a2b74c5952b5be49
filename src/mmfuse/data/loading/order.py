"""Which rows each batch of an epoch holds: a function of the seed and the epoch."""

import mmap
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler


class Order(Sampler):
    """Yields ``(epoch, rows)`` of each batch: what is random in a sample depends on both."""

    def __init__(self, rows: int, batch_size: int, *, shuffle: bool, seed: int) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        epoch = self.epoch  # another pass may begin before this one ends
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        order = _memory_of_its_own(self.rows)
        if self.shuffle:
            torch.randperm(self.rows, generator=generator, out=order)
        else:
            torch.arange(self.rows, out=order)
        starts = range(0, self.rows, self.batch_size)
        return ((epoch, order[start : start + self.batch_size]) for start in starts)


def _memory_of_its_own(rows: int) -> Tensor:
    """Room for so many numbers that was never used before.

    A worker keeps a copy of all that this process writes over after the start: here, of 10 bytes a row.
    """
    return torch.frombuffer(mmap.mmap(-1, 8 * rows), dtype=torch.int64)


class OrderOfLists(Sampler):
    """The same with lists, which are cheaper to send to a worker."""

    def __init__(self, order: Any) -> None:  # an Order, or one of shards
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        return ((epoch, rows.tolist()) for epoch, rows in self.order)
