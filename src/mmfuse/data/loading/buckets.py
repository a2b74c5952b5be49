"""Batches of rows of similar length, so that little of them is padding."""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfuse.data.loading.order import epoch_order
from mmfuse.data.loading.passes import BatchOrder, Pass, cut

Lengths = Mapping[str, np.ndarray]
Cost = Callable[[Lengths], Any]  # lengths by modality -> what one row of these lengths costs, an array of numbers

_WINDOW = 256  # batches whose rows are sorted together
_MOST_ROWS = 4  # times as many rows as a batch of mean cost has, where no batch_size says otherwise
_SPARE = 1.005  # times as many steps as the first epoch needs are made in all
_TRIES = 10  # shuffles of an epoch that would need more; then it is cut as the first one


class BucketOrder(BatchOrder):
    """Batches of similar lengths, with as many rows as fit: ``rows * cost(longest of each modality) <= max_tokens``.

    The rows are shuffled and cut into windows of 256 batches; those of a window are put into an order in which
    neighbours are alike, and batches are cut from it. The ranks take neighbouring batches at the same step, so that
    they wait little for each other, and the steps are shuffled. Every epoch has the same number of steps: an order that
    would need more is drawn again, and where one needs fewer, the batches with most rows are halved.

    Without ``shuffle`` all rows are one window, and the steps go from short to long.

    Args:
        lengths: of every row, for each modality that counts.
        cost: what a row costs, a function of its lengths that never falls where one of them grows.
        batch_size: most rows in a batch of one rank; without ``max_tokens`` each has as many.
        max_tokens: largest cost of a batch, padding included; None: no limit.
        shuffle: an order of its own in every epoch.
        seed: of the shuffling.
    """

    def __init__(
        self,
        lengths: Lengths,
        cost: Cost,
        *,
        batch_size: int | None = None,
        max_tokens: int | float | None = None,
        shuffle: bool,
        seed: int,
    ) -> None:
        self.lengths = lengths
        self.cost = cost
        # Plain numbers, which JSON knows.
        self.batch_size = None if batch_size is None else int(batch_size)
        self.max_tokens = None if max_tokens is None else float(max_tokens)
        self.shuffle = shuffle
        self.seed = int(seed)
        self.total = len(next(iter(lengths.values())))
        self._crc = zlib.crc32(b"".join(np.ascontiguousarray(part).tobytes() for part in lengths.values()))
        mean = np.asarray(cost(lengths), dtype=np.float64).mean()
        # Rows of a batch, on the whole.
        self._usual = max(1, int(max_tokens / mean)) if max_tokens is not None else int(batch_size or 1)
        self._most = batch_size or _MOST_ROWS * self._usual
        self._counts: dict[int, int] = {}  # steps of a whole epoch, by the number of ranks
        self._made: tuple[Pass, list[list[Any]]] | None = None  # the last steps, of all ranks

    @property
    def identity(self) -> dict[str, Any]:
        """Rows and their lengths, shuffling and seed."""
        return {"rows": self.total, "lengths": self._crc, "shuffle": self.shuffle, "seed": self.seed}

    @property
    def settings(self) -> dict[str, Any]:
        """What limits a batch."""
        return {"batch_size": self.batch_size, "max_tokens": self.max_tokens}

    def steps(self, now: Pass) -> int:
        """Batches of each rank."""
        return len(self._steps(now)) if now.cuts else self._count(now.world)

    def rows(self, now: Pass) -> Iterator[Tensor]:
        """The rows of each batch of this rank."""
        return (torch.from_numpy(step[now.rank]) for step in self._steps(now) if len(step[now.rank]))

    def _steps(self, now: Pass) -> list[list[Any]]:
        """The batches of all ranks in each step that is left."""
        now = Pass(now.epoch, 0, now.world, now.cuts)
        if self._made is None or self._made[0] != now:
            self._made = now, self._left(now)
        return self._made[1]

    def _left(self, now: Pass) -> list[list[Any]]:
        rows = None  # all of them
        for number, used in enumerate(now.cuts):
            then, last = self._as_then(used), number + 1 == len(now.cuts)
            steps = then._cut(rows, now.epoch, used["world"], number)
            if last and (then.settings, used["world"]) == (self.settings, now.world):
                return steps[used["batches"] :]
            rows = np.concatenate(
                [np.empty(0, np.int64), *(part for step in steps[used["batches"] :] for part in step)]
            )
        return self._cut(rows, now.epoch, now.world, len(now.cuts))

    def _as_then(self, used: Mapping[str, Any]) -> "BucketOrder":
        limits = {name: used[name] for name in self.settings}
        if limits == self.settings:
            return self
        return BucketOrder(self.lengths, self.cost, **limits, shuffle=self.shuffle, seed=self.seed)

    def _cut(self, rows: Any, epoch: int, world: int, number: int) -> list[list[Any]]:
        """The steps of a whole epoch (rows=None), or of what is left of one."""
        if rows is None:
            count = self._count(world)
            tries = [*((epoch, attempt) for attempt in range(_TRIES)), (0, 0)]
            drawn = (self._batches(self._shuffled(*key), world) for key in tries)
            batches = next(batches for batches in drawn if len(batches) <= count * world)
        else:
            batches = self._batches(rows, world)
            count = math.ceil(len(batches) / world)
        batches = _in_so_many(batches, count * world)
        steps = [batches[start : start + world] for start in range(0, len(batches), world)]
        if self.shuffle:
            whole = sum(1 for step in steps if len(step[-1]))  # those with a batch for every rank come first
            generator = np.random.default_rng([self.seed % 2**63, epoch, number])
            steps = [steps[i] for i in generator.permutation(whole)] + steps[whole:]
        return steps

    def _count(self, world: int) -> int:
        if world not in self._counts:
            most = self.total / self._usual
            if self.max_tokens is not None:
                first = len(self._batches(self._shuffled(0, 0), world))
                most = min(self.total, first * _SPARE if self.shuffle else first)
            self._counts[world] = math.ceil(math.ceil(most) / world)
        return self._counts[world]

    def _shuffled(self, epoch: int, attempt: int) -> Any:
        key = epoch + 1_000_000_007 * attempt
        return epoch_order(self.total, key, shuffle=self.shuffle, seed=self.seed).numpy()

    def _batches(self, rows: Any, world: int) -> list[Any]:
        """Rows in their order -> batches that are neighbours where they are alike."""
        if not len(rows):
            return []
        alike = self._alike(rows)
        if self.max_tokens is not None:
            return list(self._full(alike))
        size = self._usual * world
        starts = range(0, len(rows), size)
        return [cut(alike[start : start + size], world, rank) for start in starts for rank in range(world)]

    def _alike(self, rows: Any) -> Any:
        """The rows of each window in an order in which neighbours are alike."""
        unit = self._usual if self.max_tokens is None else max(1, self._usual // 2)
        # Two windows or more, so that others meet in each epoch; of whole batches.
        batches = math.ceil(len(rows) / self._usual)
        size = self._usual * min(_WINDOW, math.ceil(batches / 2)) if self.shuffle else len(rows)
        windows = [self._sorted(rows[start : start + size], unit) for start in range(0, len(rows), size)]
        # Up and down: what ends a window is like what begins the next one.
        return np.concatenate([window[:: 1 - 2 * (i % 2)] for i, window in enumerate(windows)])

    def _sorted(self, rows: Any, unit: int) -> Any:
        """A k-d tree: halve the rows along the modality that saves most padding, down to so many rows."""
        halves = math.ceil(len(rows) / unit) // 2 * unit
        if not halves:
            return rows
        orders = [rows[np.argsort(length[rows], kind="stable")] for length in self.lengths.values()]
        if len(orders) == 1:
            return orders[0]
        best = min(orders, key=lambda order: self._padded(order[:halves]) + self._padded(order[halves:]))
        return np.concatenate([self._sorted(best[:halves], unit), self._sorted(best[halves:], unit)])

    def _padded(self, rows: Any) -> float:
        return len(rows) * float(self.cost({name: length[rows].max() for name, length in self.lengths.items()}))

    def _full(self, rows: Any) -> Iterator[Any]:
        """Batches of rows that follow each other, each as large as it may be."""
        limit, start, room = self.max_tokens, 0, 2 * self._usual
        while start < len(rows):
            some = rows[start : start + room]
            longest = {name: np.maximum.accumulate(length[some]) for name, length in self.lengths.items()}
            numbers = np.arange(1, len(some) + 1)
            fits = (numbers * self.cost(longest) <= limit) & (numbers <= self._most)
            if fits.all() and start + room < len(rows):
                room *= 2
                continue
            size = max(1, int(fits.sum()))
            yield some[:size]
            start, room = start + size, 2 * size


def _in_so_many(batches: Sequence[Any], count: int) -> list[Any]:
    """As many batches: those with most rows are halved, and empty ones follow if there are not enough rows."""
    parts = np.ones(len(batches), dtype=np.int64)
    sizes = np.array([len(batch) for batch in batches])
    for _ in range(count - len(batches)):
        largest = int((sizes / parts).argmax())
        if parts[largest] == sizes[largest]:
            break
        parts[largest] += 1
    made = [cut(batch, n, part) for batch, n in zip(batches, parts.tolist(), strict=True) for part in range(n)]
    return made + [np.empty(0, np.int64)] * (count - len(made))
