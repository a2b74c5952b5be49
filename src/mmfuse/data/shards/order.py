"""Which samples each batch of an epoch holds: a pure function of seed, epoch and counts, whatever reads them.

The shards are put in an order of (seed, epoch), in a circle that is entered anywhere, and each rank takes an equal run
of the samples that follow each other. The run is cut into windows of ``buffer`` samples, and each window is shuffled.
So every sample comes once, all ranks make equally many steps, no state has to be kept to go on in the middle, and no
number of workers changes it.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from mmfuse.data.errors import DataError


class Window(NamedTuple):
    """Some samples that follow each other in the run of a rank."""

    start: int
    shuffled: list[int]  # the positions of these samples, in the order in which they come out


@dataclass(frozen=True)
class Order:
    """The order of all epochs, on one of several ranks.

    Args:
        counts: samples of each shard.
        batch_size: samples of a batch on this rank.
        shuffle: an order of its own in every epoch; else that of the shards.
        buffer: samples that are shuffled together.
        seed: of the shuffling.
        rank: which of the ranks this is.
        world: how many ranks there are.
    """

    counts: tuple[int, ...]
    batch_size: int
    shuffle: bool
    buffer: int
    seed: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(
                f"load_shards got rank={self.rank} of world={self.world}. Expected a rank from 0 to {self.world - 1}. "
                "Leave both out to take those of torch.distributed."
            )
        if self.shuffle and self.total < self.world:
            raise DataError(
                f"There are {self.total} samples for {self.world} ranks. Expected one or more for each. "
                "Train on fewer ranks."
            )

    @cached_property
    def total(self) -> int:
        """Samples of all ranks, and those that are left out."""
        return sum(self.counts)

    @cached_property
    def left_out(self) -> int:
        """Samples that an epoch of training leaves out, others each time: only batches of one may not come out even."""
        return self.total % self.world if self.shuffle and self.batch_size == 1 else 0

    @cached_property
    def samples(self) -> int:
        """Samples of this rank."""
        return self._end(self.rank) - self._end(self.rank - 1)

    @cached_property
    def batches(self) -> int:
        """Batches of this rank. In training the same on every rank."""
        most = -(-(self.total - self.left_out) // self.world)
        return -(-(most if self.shuffle else self.samples) // self.batch_size)

    def rows(self, epoch: int, first_batch: int = 0) -> Iterator[list[int]]:
        """The samples of each batch of this rank, by their numbers among all samples."""
        run = self.run(epoch)
        batch, position = first_batch, self._batch_start(first_batch)
        rows: list[int] = []
        size = self._size(batch)
        while position < self.samples:
            window = self.window(epoch, position)
            for place in window.shuffled[position - window.start :]:
                rows.append(run.row(place))
                if len(rows) == size:
                    yield rows
                    rows, batch = [], batch + 1
                    size = self._size(batch)
            position = window.start + len(window.shuffled)

    def run(self, epoch: int) -> "Run":
        """Where the samples of this rank lie in an epoch."""
        shards, start = list(range(len(self.counts))), self._end(self.rank - 1)
        if self.shuffle:
            chance = self._random(epoch, "shards")
            chance.shuffle(shards)
            # Somewhere in a shard: windows begin elsewhere in each epoch, so that others meet in them.
            start += chance.randrange(self.total)
        return Run(shards, self.counts, start)

    def window(self, epoch: int, position: int) -> Window:
        """The window of a position."""
        size = self.buffer if self.shuffle else self.batch_size
        number = position // size
        shuffled = list(range(number * size, min((number + 1) * size, self.samples)))
        if self.shuffle:
            self._random(epoch, "window", self.rank, number).shuffle(shuffled)
        return Window(number * size, shuffled)

    def batch_of(self, output: int) -> int:
        """The batch of the sample that comes out at this place in the run."""
        batch = min(output // self.batch_size, self.batches - 1)
        while batch + 1 < self.batches and output >= self._batch_start(batch + 1):
            batch += 1
        return batch

    def _size(self, batch: int) -> int:
        return self._batch_start(batch + 1) - self._batch_start(batch)

    def _end(self, rank: int) -> int:
        return (rank + 1) * (self.total - self.left_out) // self.world

    def _batch_start(self, batch: int) -> int:
        """All batches are full but the last ones, which keep a sample each where another rank has one more."""
        return max(0, min(batch * self.batch_size, self.samples - (self.batches - batch)))

    def _random(self, *key: object) -> random.Random:
        return random.Random(repr((self.seed, *key)))


class Run:
    """The samples of a rank that follow each other: from positions in it to samples, and back.

    Args:
        shards: the shards in the order of an epoch; the first follows the last.
        counts: samples of each shard.
        start: samples before the run.
    """

    def __init__(self, shards: Sequence[int], counts: Sequence[int], start: int) -> None:
        self._shards = shards
        self._turns = {shard: turn for turn, shard in enumerate(shards)}
        self._ends = list(accumulate(counts[shard] for shard in shards))  # in the order of the epoch
        self._sums = list(accumulate(counts))  # in the order of the shards
        self._start = start

    def row(self, position: int) -> int:
        """The number of a sample among all samples."""
        place = (position + self._start) % self._sums[-1]
        turn = bisect_right(self._ends, place)
        return self._sums[self._shards[turn]] - self._ends[turn] + place

    def position(self, row: int) -> int:
        """The position of a sample."""
        shard = bisect_right(self._sums, row)
        return (self._ends[self._turns[shard]] - self._sums[shard] + row - self._start) % self._sums[-1]
