"""The samples of an epoch in a circle that is entered anywhere, and stretches of it."""

import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple


class Stretch(NamedTuple):
    """Places of the circle that follow each other."""

    start: int
    stop: int


class Circle:
    """All samples of an epoch: the shards in their order, entered somewhere, the first after the last.

    Args:
        counts: samples of each shard.
        chance: draws order and entry; None: the shards as they are.
    """

    def __init__(self, counts: Sequence[int], chance: random.Random | None) -> None:
        self._shards, self._start = list(range(len(counts))), 0
        if chance is not None:
            chance.shuffle(self._shards)
            # Somewhere in a shard: windows begin elsewhere in each epoch, so that others meet in them.
            self._start = chance.randrange(sum(counts))
        self._turns = {shard: turn for turn, shard in enumerate(self._shards)}
        self._ends = list(accumulate(counts[shard] for shard in self._shards))  # in the order of the epoch
        self._sums = list(accumulate(counts))  # in the order of the shards

    def row(self, place: int) -> int:
        """The number of a sample among all samples."""
        place = (place + self._start) % self._sums[-1]
        turn = bisect_right(self._ends, place)
        return self._sums[self._shards[turn]] - self._ends[turn] + place

    def place(self, row: int) -> int:
        """The place of a sample."""
        shard = bisect_right(self._sums, row)
        return (self._ends[self._turns[shard]] - self._sums[shard] + row - self._start) % self._sums[-1]


def joined(stretches: Iterator[Stretch]) -> list[Stretch]:
    """The same places in their order, in as few stretches as there can be."""
    ordered = sorted(stretches)
    if not ordered:
        return []
    gaps = [i for i, (one, other) in enumerate(pairwise(ordered), start=1) if one.stop < other.start]
    return [
        Stretch(ordered[first].start, ordered[last - 1].stop)
        for first, last in zip([0, *gaps], [*gaps, len(ordered)], strict=True)
    ]
