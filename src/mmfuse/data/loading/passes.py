"""One pass over an epoch, or over the rest of it, on one of several ranks; and the place where a pass stands."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Sampler

Cut = Mapping[str, Any]  # how batches were made: ``settings``, "world" among them, and how many "batches" were used


@dataclass(frozen=True)
class Pass:
    """What a pass goes over.

    Args:
        epoch: its number, from 0.
        rank: number of this process.
        world: how many processes there are.
        cuts: what was used of this epoch before, by passes that were not finished: one after another.
    """

    epoch: int
    rank: int = 0
    world: int = 1
    cuts: tuple[Cut, ...] = ()


class BatchOrder:
    """Abstract: which rows each batch holds, a pure function of the pass. Nothing has to be kept to go on anywhere."""

    shuffle: bool
    seed: int

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What has to be the same to go on in the middle of an epoch; plain JSON."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What may be another one: the rest of the epoch is then cut anew; plain JSON."""

    @abstractmethod
    def steps(self, now: Pass) -> int:
        """Batches of each rank in a pass: as many on all."""

    @abstractmethod
    def rows(self, now: Pass) -> Iterator[Tensor | list[int]]:
        """The rows of each batch of this rank; where it gets fewer than ``steps``, the last ones are missing."""

    def after(self, now: Pass, batches: int) -> tuple[Cut, ...]:
        """The cuts of a pass that goes on after so many batches of this one."""
        settings = {**self.settings, "world": now.world}
        if not batches:
            return now.cuts
        if now.cuts and now.cuts[-1] == {**settings, "batches": now.cuts[-1]["batches"]}:
            return (*now.cuts[:-1], {**settings, "batches": now.cuts[-1]["batches"] + batches})
        return (*now.cuts, {**settings, "batches": batches})


def require_same_order(position: Mapping[str, Any], order: BatchOrder, name: str) -> None:
    """Raise ValueError for a position of a loader whose batches have other rows, in the middle of its epoch."""
    then, now = position["order"], order.identity
    if position["cuts"] and then != now:
        names = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
        other = ", ".join(f"{key}={now.get(key)} for {then.get(key)}" for key in names)
        epoch = position["epoch"]
        raise ValueError(
            f"The loader of {name} cannot go on in the middle of epoch {epoch}: it got {other}. Expected the rows and "
            f"settings of then. Give them, or begin the next epoch: loader.epoch = {epoch + 1}."
        )


class PassSampler(Sampler):
    """Yields ``(pass, rows)`` of each batch of the pass that was set last, for workers: they keep no order."""

    def __init__(self, order: BatchOrder) -> None:
        self.order = order
        self.now = Pass(0)

    def __len__(self) -> int:
        return self.order.steps(self.now)

    def __iter__(self) -> Iterator[tuple[Pass, list[int]]]:
        now = self.now  # another pass may begin before this one ends
        # Lists are cheaper to send to a worker.
        return ((now, rows if isinstance(rows, list) else rows.tolist()) for rows in self.order.rows(now))


def cut(rows: Any, parts: int, part: int) -> Any:
    """One of so many pieces, each as long as the others or one shorter: those come last."""
    size, longer = divmod(len(rows), parts)
    start = part * size + min(part, longer)
    return rows[start : start + size + (part < longer)]
