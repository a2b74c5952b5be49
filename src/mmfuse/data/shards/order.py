"""Which samples each batch of an epoch holds: a pure function of seed, epoch and counts, whatever reads them.

The shards are put in an order of (seed, epoch), in a circle that is entered anywhere, and each rank takes an equal run
of the samples that follow each other. The run is cut into windows of ``buffer`` samples, and each window is shuffled.
So every sample comes once, all ranks make equally many steps, no state has to be kept to go on in the middle, and no
number of workers changes it. What is left of an epoch is cut anew in the same way: the places in the circle that were
not used are a few stretches of it, since windows come one after the other.

Where lengths are known, the samples of a window are sorted by them and cut into batches, and these are shuffled: alike
on all ranks, so that these have batches of similar length at the same step.
"""

import math
import random
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from mmfuse.data.loading.passes import BatchOrder, Pass
from mmfuse.data.shards.circle import Circle, Stretch, joined


class Window(NamedTuple):
    """Some samples that follow each other in the run of a rank."""

    start: int
    shuffled: list[int]  # the positions of these samples, in the order in which they come out


@dataclass(frozen=True)
class Order(BatchOrder):
    """The order of all epochs.

    Args:
        counts: samples of each shard.
        batch_size: samples of a batch on one rank.
        shuffle: an order of its own in every epoch; else that of the shards.
        buffer: samples that are shuffled together.
        seed: of the shuffling.
        lengths: float (sample,); those of a window that are alike share a batch. None: as they were shuffled.
    """

    counts: tuple[int, ...]
    batch_size: int
    shuffle: bool
    buffer: int
    seed: int
    lengths: Any = field(default=None, compare=False)

    @cached_property
    def total(self) -> int:
        """Samples of all ranks."""
        return sum(self.counts)

    @property
    def identity(self) -> dict[str, Any]:
        """The shards, and how they are shuffled."""
        counts = zlib.crc32(repr(self.counts).encode())
        found = {"samples": self.total, "counts": counts, "shuffle": self.shuffle, "seed": self.seed}
        return found if self.lengths is None else {**found, "lengths": zlib.crc32(self.lengths.tobytes())}

    @property
    def settings(self) -> dict[str, Any]:
        """The size of a batch, and of the buffer."""
        return {"batch_size": self.batch_size, "buffer": self.buffer}

    @property
    def reach(self) -> int:
        """Samples of a window."""
        if self.lengths is not None:
            return math.ceil(self.buffer / self.batch_size) * self.batch_size
        return self.buffer if self.shuffle else self.batch_size

    def steps(self, now: Pass) -> int:
        """Batches of each rank in a pass."""
        return self.run(now).batches

    def rows(self, now: Pass) -> Iterator[list[int]]:
        """The samples of each batch of this rank, by their numbers among all samples."""
        return self.run(now).rows()

    def run(self, now: Pass) -> "Run":
        """What one rank reads in a pass."""
        left = [Stretch(0, self.total)]
        for number, cut in enumerate(now.cuts):
            then = replace(self, batch_size=cut["batch_size"], buffer=cut["buffer"])
            if number + 1 == len(now.cuts) and (then, cut["world"]) == (self, now.world):
                return Run(self, now.epoch, left, now.rank, now.world, first=cut["batches"], key=number)
            runs = (Run(then, now.epoch, left, rank, cut["world"], key=number) for rank in range(cut["world"]))
            left = joined(stretch for run in runs for stretch in run.left(cut["batches"]))
        return Run(self, now.epoch, left, now.rank, now.world, key=len(now.cuts))

    def random(self, *key: object) -> random.Random:
        """A generator for one purpose."""
        return random.Random(repr((self.seed, *key)))


class Run:
    """The samples of a rank in a pass: batches of them, windows, and from positions in it to samples and back.

    Args:
        order: of all epochs.
        epoch: which one.
        stretches: the places of the circle that all ranks share.
        rank: which of the ranks this is.
        world: how many ranks there are.
        first: the batch with which it begins; those before it were used.
        key: how often the epoch was cut anew before.
    """

    def __init__(
        self,
        order: Order,
        epoch: int,
        stretches: Sequence[Stretch],
        rank: int = 0,
        world: int = 1,
        *,
        first: int = 0,
        key: int = 0,
    ) -> None:
        self._order = order
        self._first = first
        self._key = (epoch, "window", key, rank)
        self._circle = Circle(order.counts, order.random(epoch, "shards") if order.shuffle else None)
        self._stretches = stretches
        self._ends = list(accumulate(stretch.stop - stretch.start for stretch in stretches))
        total = self._ends[-1] if self._ends else 0
        self._start = rank * total // world
        self.samples = (rank + 1) * total // world - self._start
        most = math.ceil(total / world)
        self._steps = math.ceil(most / order.batch_size)

    @property
    def batches(self) -> int:
        """Batches that are left, the same on every rank; the last may be smaller, or have no sample here."""
        return max(0, self._steps - self._first)

    def rows(self) -> Iterator[list[int]]:
        """The samples of each batch that is left and has any."""
        size = self._order.batch_size
        position, rows = self._first * size, []
        while position < self.samples:
            window = self.window(position)
            for place in window.shuffled[position - window.start :]:
                rows.append(self.row(place))
                if len(rows) == size:
                    yield rows
                    rows = []
            position = window.start + len(window.shuffled)
        if rows:
            yield rows

    def left(self, batches: int) -> list[Stretch]:
        """The places in the circle that this rank has not used after so many batches."""
        used = batches * self._order.batch_size
        if used >= self.samples:
            return []
        window = self.window(used)
        places = [self._place(position) for position in sorted(window.shuffled[used - window.start :])]
        after = range(window.start + len(window.shuffled), self.samples)
        whole = []
        start = 0
        for stretch, end in zip(self._stretches, self._ends, strict=True):
            low, high = max(start, self._start + after.start), min(end, self._start + after.stop)
            if low < high:
                whole.append(Stretch(stretch.start + low - start, stretch.start + high - start))
            start = end
        return [*(Stretch(place, place + 1) for place in places), *whole]

    def window(self, position: int) -> Window:
        """The window of a position."""
        size = self._order.reach
        number = position // size
        shuffled = list(range(number * size, min((number + 1) * size, self.samples)))
        if self._order.shuffle:
            self._order.random(*self._key, number).shuffle(shuffled)
        return Window(number * size, shuffled if self._order.lengths is None else self._alike(shuffled, number))

    def _alike(self, positions: list[int], number: int) -> list[int]:
        """Batches of similar length; a smaller one, with which the run ends, stays the last."""
        size = self._order.batch_size
        by_length = np.argsort(self._order.lengths[list(map(self.row, positions))], kind="stable").tolist()
        batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]
        if self._order.shuffle:
            epoch, _, key, _ = self._key  # without the rank
            last = batches.pop() if len(batches[-1]) < size else []
            self._order.random(epoch, "batches", key, number).shuffle(batches)
            batches.append(last)
        return [positions[place] for batch in batches for place in batch]

    def batch_of(self, output: int) -> int:
        """The batch of the sample that comes out at this place in the run."""
        return output // self._order.batch_size

    def row(self, position: int) -> int:
        """The number of a sample among all samples."""
        return self._circle.row(self._place(position))

    def position(self, row: int) -> int | None:
        """The position of a sample, or None if it is not in this run."""
        place = self._circle.place(row)
        turn = bisect_right(self._stretches, (place, self._order.total + 1)) - 1
        if turn < 0 or place >= self._stretches[turn].stop:
            return None
        position = self._ends[turn] - (self._stretches[turn].stop - place) - self._start
        return position if 0 <= position < self.samples else None

    def _place(self, position: int) -> int:
        turn = bisect_right(self._ends, position + self._start)
        return self._stretches[turn].stop - (self._ends[turn] - position - self._start)
