"""A signal to stop ends a run after the step that it met, with everything saved."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from mmfuse.distributed import is_main, world

CAUGHT = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
MOMENT = 1.0  # seconds in which a signal that comes twice is one: torchrun passes on what its workers got, too
STDERR = 2  # the descriptor
TOLD = "\nSIGINT: the run stops after this step, or leaves the validation. Press Ctrl-C again to end it at once.\n"


class StopNow(BaseException):
    """A signal came where nothing has to be finished first."""


class Preempted(SystemExit):
    """A signal stopped the run; its state is saved. Not caught, it ends the program with 143, or 130 for SIGINT.

    So a scheduler can tell it from 0, done, and 1, an error.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM))
        self.message = message

    def __str__(self) -> str:
        return self.message


class StopSignals:
    """A context in which SIGTERM, SIGUSR1 and SIGINT are noted instead of ending the program.

    The same one again, more than a :data:`MOMENT` later, does at once what it did before. So does a second SIGINT at
    any time: a person sends that. Among several processes a second SIGTERM counts for nothing, because torchrun sends
    it to those that still save when the first of them has ended; it kills them half a minute later by itself.

    One that no step has met, because the last was over, goes to who handled it before, when the context ends.

    ``stop`` is set by :func:`train_epoch` when all processes know of it, so that all stop after the same step.
    Outside the main thread, where Python allows no handlers, nothing is caught.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the signal that this process got
        self.stop = 0  # number of the signal that some process got, and all know
        self._before: dict[int, Any] = {}
        self._since: dict[int, float] = {}  # when each signal came first, in seconds
        self._may_raise = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, where nothing has to be finished first, a signal raises :class:`StopNow`, and :attr:`stop` is set.

        With several processes it is noted as everywhere: the others would wait for this one.
        """
        if self.received and world() == 1:
            self.stop = self.received
            raise StopNow
        self._may_raise = world() == 1
        try:
            yield
        finally:
            self._may_raise = False

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in CAUGHT}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self._before:
            self._put_back(number)
        heeded = kind is not None and not issubclass(kind, Exception)  # Preempted, or KeyboardInterrupt
        if self.received and not heeded:
            signal.raise_signal(self.received)

    def counts(self) -> list[int]:
        """For each signal that is caught, whether this process got it: to be summed over the processes."""
        return [int(self.received == number) for number in CAUGHT]

    def hear(self, counts: Sequence[float]) -> None:
        """Set ``stop`` from the sums over all processes."""
        self.stop = next((number for number, count in zip(CAUGHT, counts, strict=True) if count), 0)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._must_not_wait(number):
            self._put_back(number)
            signal.raise_signal(number)
            return  # to here if it did nothing before, or has a handler that returns
        self._since.setdefault(number, time.monotonic())
        self.received = number
        if number == signal.SIGINT and is_main() and os.isatty(STDERR):
            os.write(STDERR, TOLD.encode())  # as one call of the system: the signal may have come while Python wrote
        if self._may_raise:
            self._may_raise = False
            self.stop = number
            raise StopNow

    def _must_not_wait(self, number: int) -> bool:
        """Whether this signal came before, and means now what it says."""
        if number not in self._since:
            return False
        return number == signal.SIGINT or (world() == 1 and time.monotonic() - self._since[number] > MOMENT)

    def _put_back(self, number: int) -> None:
        handler = self._before[number]
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
