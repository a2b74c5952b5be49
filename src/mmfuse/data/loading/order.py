"""Batches of equal size: global batch i of an epoch is the i-th piece of its order, cut among the ranks."""

import mmap
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmfuse.data.loading.passes import BatchOrder, Pass, cut


class Order(BatchOrder):
    """Batches of so many rows on each rank; the last ones may be smaller, or missing where there is not one row left.

    Args:
        rows: how many there are.
        batch_size: rows in a batch of one rank.
        shuffle: an order of its own in every epoch.
        seed: of the shuffling.
    """

    def __init__(self, rows: int, batch_size: int, *, shuffle: bool, seed: int) -> None:
        self.total = rows
        self.batch_size = int(batch_size)  # plain numbers, which JSON knows
        self.shuffle = shuffle
        self.seed = int(seed)

    @property
    def identity(self) -> dict[str, Any]:
        """Rows, shuffling and seed."""
        return {"rows": self.total, "shuffle": self.shuffle, "seed": self.seed}

    @property
    def settings(self) -> dict[str, Any]:
        """The size of a batch."""
        return {"batch_size": self.batch_size}

    def steps(self, now: Pass) -> int:
        """Global batches that are left."""
        return -(-(self.total - self._used(now)) // (self.batch_size * now.world))

    def rows(self, now: Pass) -> Iterator[Tensor]:
        """The piece of this rank of each global batch."""
        order, size = epoch_order(self.total, now.epoch, shuffle=self.shuffle, seed=self.seed), self.batch_size
        starts = range(self._used(now), self.total, size * now.world)
        pieces = (cut(order[start : start + size * now.world], now.world, now.rank) for start in starts)
        return (piece for piece in pieces if len(piece))

    def _used(self, now: Pass) -> int:
        used = sum(part["batches"] * part["batch_size"] * part["world"] for part in now.cuts)
        return min(used, self.total)


def epoch_order(rows: int, epoch: int, *, shuffle: bool, seed: int) -> Tensor:
    """All rows in the order of an epoch."""
    order = _memory_of_its_own(rows)
    if shuffle:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(rows, generator=generator, out=order)
    return torch.arange(rows, out=order)


def _memory_of_its_own(rows: int) -> Tensor:
    """Room for so many numbers that was never used before.

    A worker keeps a copy of all that this process writes over after the start: here, of 10 bytes a row.
    """
    if 8 * rows < mmap.PAGESIZE:  # little to keep, and a mapping takes longer than an order
        return torch.empty(rows, dtype=torch.int64)
    return torch.frombuffer(mmap.mmap(-1, 8 * rows), dtype=torch.int64)
