"""A signal to stop ends a run after the step that it met, with everything saved."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from mmfuse.distributed import world

CAUGHT = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


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

    A second SIGINT ends it at once. A second SIGTERM does not: torchrun and schedulers may send one twice.

    One that no step has met, because the last was over, goes to who handled it before, when the context ends.

    ``stop`` is set by :func:`train_epoch` when all processes know of it, so that all stop after the same step.
    Outside the main thread, where Python allows no handlers, nothing is caught.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the signal that this process got
        self.stop = 0  # number of the signal that some process got, and all know
        self._before: dict[int, Any] = {}
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
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
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
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        if self._may_raise:
            self._may_raise = False
            self.stop = number
            raise StopNow
