"""Whole training loops timed in turn, a few steps each, by the CPU time of their own threads.

A loop is a function of batches, such as ``fit``: it can't be called a step at a time. So each runs in a thread of its
own, and a baton goes round: whoever holds it trains on the next few batches, and nobody else runs. All see the same
weather of the machine, and caches that are as cold.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from mmfuse import Batch

Loop = Callable[[Iterable[Batch]], object]


@dataclass
class Turns:
    """The batches of one loop: after every few of them it waits until it holds the baton again."""

    batches: Sequence[Batch]
    rounds: int
    steps: int  # batches in a turn
    seconds: list[float] = field(default_factory=list)  # each turn took, by the step
    error: BaseException | None = None
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _done: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __len__(self) -> int:
        return self.rounds * self.steps

    def __iter__(self) -> Iterator[Batch]:
        number = 0
        for _ in range(self.rounds):
            self._hand_over()
            began = _now()
            for _ in range(self.steps):
                yield self.batches[number % len(self.batches)]
                number += 1
            self.seconds.append((_now() - began) / self.steps)
        self._hand_over()

    def start(self, loop: Loop) -> threading.Thread:
        """Run the loop in a thread until it asks for its first batch."""
        thread = threading.Thread(target=self._run, args=[loop], daemon=True)
        thread.start()
        self._done.acquire()
        return thread

    def take(self) -> None:
        """Hold the baton until the turn is over."""
        if self.error is None:
            self._go.release()
            self._done.acquire()
        if self.error is not None:
            raise self.error

    def _hand_over(self) -> None:
        self._done.release()
        self._go.acquire()

    def _run(self, loop: Loop) -> None:
        try:
            loop(self)
        except BaseException as error:  # raised again by who waits
            self.error = error
        self._done.release()


def in_turns(loops: Mapping[str, Loop], batches: Sequence[Batch], *, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds a step of each loop, round by round; the first round warms up and is left out."""
    turns = {name: Turns(batches, rounds + 1, steps) for name in loops}
    threads = [turns[name].start(loop) for name, loop in loops.items()]
    for number in range(rounds + 2):  # the last one lets the loop end
        for turn in list(turns.values())[:: 1 if number % 2 == 0 else -1]:
            turn.take()
    for thread in threads:
        thread.join()
    return {name: turn.seconds[1:] for name, turn in turns.items()}


def quartiles(ours: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Of the ratio ours / other over the rounds: lower quartile, median, upper quartile."""
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    lower, middle, upper = statistics.quantiles(ratios, n=4, method="inclusive")
    return lower, middle, upper


def _now() -> float:
    """CPU seconds of this thread; with a GPU, seconds of the clock once all that was asked of it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time()
