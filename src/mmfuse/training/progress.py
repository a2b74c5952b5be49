"""How far a run is, and how it goes on from there as if it had never stopped."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor

from mmfuse.contracts import Batch
from mmfuse.data.loading.loader import report_of_all
from mmfuse.distributed import world
from mmfuse.training.halving import Halving
from mmfuse.training.history import History
from mmfuse.training.meter import Meter
from mmfuse.training.seeds import random_states

Restore = Callable[[str], None]  # puts back the random states of "now", or of the beginning of the "epoch"


class Progress:
    """Epoch, step, and place in the data of a run: a part of its checkpoints.

    Args:
        batches: of training. A ``Loader`` goes on anywhere; others are taken again up to the place and dropped.
        halving: how far they are cut goes on, too.
    """

    def __init__(self, batches: Any, halving: Halving | None = None) -> None:
        self.batches = batches
        self.halving = halving or Halving()
        self.history = History()
        self.epoch = 1  # that is going on, or comes next
        self.step = 0  # optimizer steps made, in the whole run
        self.used = 0  # batches of this process used in this epoch
        self.rate = 0.0  # learning rate with which the epoch began
        self._used_before = 0  # of those, how many before this process went on
        self._position: Mapping[str, Any] | None = None
        self._meter: Mapping[str, Any] | None = None
        self._rest: Rest | None = None
        self.meter: Meter | None = None

    def begin(self, title: str, *, rate: float, show: bool, restore: Restore | None = None) -> Meter:
        """The batches that are still to come in this epoch, behind a meter that counts what is made of them.

        Args:
            title: of the bar.
            rate: the learning rate of now.
            show: whether there is a bar.
            restore: for the first epoch of a run that goes on.
        """
        if hasattr(self.batches, "epoch"):
            self.batches.epoch = self.epoch - 1  # the order of a Loader depends on it
        for name in ("sampler", "batch_sampler"):  # that of a DistributedSampler of torch, too
            if set_epoch := getattr(getattr(self.batches, name, None), "set_epoch", None):
                set_epoch(self.epoch - 1)
        drop, self._used_before = self.used, self.used
        self.rate = self.rate if self.used else rate
        if self.used and hasattr(self.batches, "start"):
            self.batches.start(self._position)
            drop = 0
        self._rest = Rest(self.batches, drop=drop, middle=self.used > 0, restore=restore)
        self.meter = Meter(self._rest, title, show=show)
        if self._meter is not None:
            self.meter.load_state_dict(self._meter)
        self._position = self._meter = None
        return self.meter

    def advance(self, batches: int) -> None:
        """A step has used so many batches."""
        self.step += 1
        self.used += batches

    def end(self, row: Mapping[str, Any]) -> None:
        """What an epoch gave goes into the history, and the next one comes."""
        self.history.epochs.append(dict(row))
        self.epoch, self.used, self.meter = self.epoch + 1, 0, None

    def clear(self) -> None:
        """Take the bar off the screen, if there is one: something else is to be said."""
        if self.meter is not None:
            self.meter.bar.close()

    @property
    def random(self) -> dict[str, Mapping[str, Tensor]]:
        """The random states of the beginning of the epoch, which a checkpoint keeps beside those of now."""
        return {} if self._rest is None or self.meter is None else {"epoch": self._rest.at_start}

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        middle = self.meter is not None and self.used > 0
        position, report = getattr(self.batches, "position", None), report_of_all(self.batches)
        return {
            "epochs": self.history.epochs,
            "best_epoch": self.history.best_epoch,
            "epoch": self.epoch,
            "step": self.step,
            "used": self.used,
            "parts": self.halving.parts,
            "rate": self.rate,
            "position": position(self.used - self._used_before) if middle and position is not None else None,
            "report": None if report is None else report.state_dict(),  # of rows that could not be read
            "meter": self.meter.state_dict() if middle and self.meter is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there with :meth:`begin`."""
        self.history = History(list(state["epochs"]), state["best_epoch"])
        self.epoch, self.step, self.used = int(state["epoch"]), int(state["step"]), int(state["used"])
        self.rate, self._position, self._meter = float(state["rate"]), state["position"], state["meter"]
        # Several processes must make equally many passes, and have smaller batches than the one that cut them. A
        # checkpoint from before batches could be cut says nothing of it.
        self.halving.parts = int(state.get("parts", 1)) if world() == 1 else 1
        report = getattr(getattr(self.batches, "dataset", None), "report", None)
        if report is not None and state["report"] is not None:
            report.merge(state["report"])


class Rest:
    """The batches that an epoch still has; in all else the batches themselves.

    To begin an epoch may draw random numbers, and so may taking batches that were used already: both happen with the
    random states of then. Those of now are put back just before the first new batch is taken.

    Args:
        batches: to be iterated over once.
        drop: how many of them were used already.
        middle: whether the epoch was begun before.
        restore: puts random states back; None: they are as they should be.
    """

    def __init__(self, batches: Any, *, drop: int, middle: bool, restore: Restore | None) -> None:
        self._batches, self._drop, self._middle, self._restore = batches, drop, middle, restore
        self.at_start: Mapping[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def __iter__(self) -> Iterator[Batch]:
        if self._restore is not None:
            self._restore("epoch" if self._middle else "now")
        self.at_start = random_states()
        iterator = iter(self._batches)
        for _ in islice(iterator, self._drop):
            pass
        if self._restore is not None and self._middle:
            self._restore("now")
        yield from iterator
