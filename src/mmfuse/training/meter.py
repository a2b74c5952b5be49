"""What a run shows of an epoch while it goes on, and keeps of it."""

import math
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch

from mmfuse.contracts import Batch
from mmfuse.distributed import is_main, world
from mmfuse.training.bar import Bar
from mmfuse.training.objective import samples_of


class Meter:
    """The batches of one epoch behind a progress bar, and the means of its losses over the optimizer steps.

    Of its time, ``wait_share`` was spent waiting for batches: near 0 where the loader keeps up, else more workers help.
    With several processes the first shows the bar, and the samples are those of all.

    Args:
        batches: of this process.
        title: of the bar.
        show: whether there is a bar.
    """

    def __init__(self, batches: Iterable[Batch], title: str, *, show: bool) -> None:
        self._processes = world()
        self.batches = batches
        self.epoch, self.since = Means(), Means()  # over the epoch; since the last reading
        self.samples = self.given = 0  # samples and batches of this process
        self.skipped = 0  # steps
        self.waited = 0.0  # seconds in which there was nothing to do because no batch was there
        self.began = time.perf_counter()
        self._last = (self.began, 0, 0.0)  # time, samples, waited at the last reading
        dataset = getattr(batches, "dataset", None)
        self._counts_samples = isinstance(dataset, Sized)  # else the bar counts batches
        self.bar = Bar(
            total=len(dataset)
            if isinstance(dataset, Sized)
            else getattr(batches, "__len__", lambda: None)(),  # of what forwards it, too
            desc=title,
            unit=" samples" if self._counts_samples else " batches",
            disable=not (show and is_main()),
            leave=False,
            mininterval=0.5,  # seconds
        )

    def __iter__(self) -> Iterator[Batch]:
        batches, asked = iter(self.batches), time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - asked
            self.samples += samples_of(batch)
            self.given += 1
            yield batch
            asked = time.perf_counter()

    def add(self, losses: Mapping[str, float], *, skipped: bool = False) -> None:
        """Count the losses of an optimizer step; one that was skipped is in what is recent, not in the epoch's means.

        Args:
            losses: by task, over all processes.
            skipped: the step was not made, because something was not finite.
        """
        self.since.add(losses)
        self.skipped += skipped
        if not skipped:
            self.epoch.add(losses)
        if self.bar.update(self._done() - self.bar.n):
            self.bar.set_postfix_str(self._postfix(losses))  # draws once more, with what is true now

    def recent(self) -> dict[str, float]:
        """What happened since the last call, for a log: ``step/loss``, ``step/result/loss``, and how fast it was.

        Losses are means over the steps since then; not finite, if one was.
        """
        (then, samples, waited), now = self._last, time.perf_counter()
        self._last = (now, self.samples, self.waited)
        numbers = _speed(self._processes * (self.samples - samples), self.waited - waited, now - then)
        losses, self.since = self.since.read(), Means()
        return _named("step", losses) | {f"step/{name}": value for name, value in numbers.items()}

    def close(self) -> dict[str, float | int]:
        """The bar ends. The means of the epoch (``train/loss``, ``train/result/loss``), skipped steps, and speed."""
        self.bar.close()
        seconds = time.perf_counter() - self.began
        speed = _speed(self._processes * self.samples, self.waited, seconds)
        return _named("train", self.epoch.read()) | {"skipped_steps": self.skipped} | speed

    def look_back(self, tasks: Iterable[str], *, expected: int, labels: bool) -> None:
        """Say what of the epoch was not as it should be; warnings are in the name of who calls ``fit``.

        Args:
            tasks: of the model.
            expected: how many batches were announced.
            labels: look whether each task had one.

        Raises:
            ValueError: there was no batch.
        """
        if not self.given:
            raise ValueError(
                f"An epoch had no batch, and not {expected}, as its len() says. Expected batches that can be read "
                "again in every epoch. Give a list or a Loader, and no generator."
            )
        without = [name for name in tasks if name not in self.epoch.sums] if labels else []
        if without and is_main():
            warnings.warn(
                f"The training batches have no known label of {without}: nothing is learned of it. Expected labels of "
                "every task. Look whether a column of the table, or a target of the batches, has its name.",
                stacklevel=3,
            )
        # A Loader may have other numbers in other epochs, and says how many.
        if self.given != expected and not hasattr(self.batches, "position") and is_main():
            warnings.warn(
                f"An epoch had {self.given} batches, and not {expected}, as its len() says. Expected the same, because "
                "the rates are planned by it. Mend __len__.",
                stacklevel=3,
            )

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands. A meter that takes it up gives the same means as one that was never stopped."""
        return {
            "epoch": self.epoch.state_dict(),
            "since": self.since.state_dict(),
            "samples": self.samples * self._processes,
            "given": self.given,
            "skipped": self.skipped,
            "waited": self.waited,
            "seconds": time.perf_counter() - self.began,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with the batches that come after."""
        self.epoch.load_state_dict(state["epoch"])
        self.since.load_state_dict(state["since"])
        now = time.perf_counter()
        self.samples = int(state["samples"]) // self._processes  # other ones may have been at it before
        self.skipped = int(state.get("skipped", 0))  # not counted once
        self.given, self.waited, self.began = int(state["given"]), state["waited"], now - state["seconds"]
        self._last = (now, self.samples, self.waited)
        self.bar.initial = self.bar.n = self._done()

    def _done(self) -> int:
        return self.samples * self._processes if self._counts_samples else self.given

    def _postfix(self, losses: Mapping[str, float]) -> str:
        numbers = dict(losses)
        if len(numbers) != 1:
            numbers = {"loss": sum(numbers.values())} | (numbers if len(numbers) <= 3 else {})
        share = self.waited / max(time.perf_counter() - self.began, 1e-9)
        shown = [f"{name} {value:.3f}" for name, value in numbers.items()]
        return ", ".join([*shown, f"waiting {share:.0%}", f"{memory_mb() / 1000:.1f} GB"])


class Means:
    """Means of losses over steps."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.steps: dict[str, int] = {}

    def add(self, losses: Mapping[str, float]) -> None:
        """Count the losses of one step."""
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + loss
            self.steps[name] = self.steps.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """The mean of each over the steps that had it."""
        return {name: total / self.steps[name] for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """The sums, and how many steps are in each."""
        sums = torch.tensor(list(self.sums.values()), dtype=torch.float64)  # JSON has no NaN
        return {"names": list(self.sums), "steps": list(self.steps.values()), "sums": sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        names = list(state["names"])
        self.sums = dict(zip(names, state["sums"].tolist(), strict=True))
        self.steps = dict(zip(names, map(int, state["steps"]), strict=True))


def memory_mb() -> float:
    """Memory in MB (10^6 bytes): the most that tensors took on the GPU so far; without one, what this process has."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        pass
    try:  # not Linux: the most that it had
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _named(kind: str, losses: Mapping[str, float]) -> dict[str, float]:
    """Losses with the names that they have in a history; "loss" is their sum, and NaN where there is none."""
    total = float(sum(losses.values())) if losses else math.nan
    return {f"{kind}/loss": total, **{f"{kind}/{name}/loss": x for name, x in losses.items()}}


def _speed(samples: int, waited: float, seconds: float) -> dict[str, float]:
    seconds = max(seconds, 1e-9)
    return {"samples_per_second": samples / seconds, "wait_share": waited / seconds, "memory_mb": memory_mb()}
