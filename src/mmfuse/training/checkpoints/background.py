"""Threads that write while training goes on: one at a time, in the order in which they began; no error is lost."""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import ClassVar

_untold: list[BaseException] = []  # errors for which nobody has waited


class Background:
    """One piece of work at a time. It begins when all has ended that others began before it.

    So what the threads of several processes say to each other is in the same order on all, and does not mix.
    """

    _newest: ClassVar[threading.Thread | None] = None  # of all

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self, work: Callable[[], None], name: str) -> None:
        """Start a thread; when :meth:`wait` has been called for the one before."""
        before = Background._newest

        def run() -> None:
            if before is not None:
                before.join()
            try:
                work()
            except BaseException as error:
                self._error = error
                _untold.append(error)

        self._thread = Background._newest = threading.Thread(target=run, name=name)
        self._thread.start()  # not a daemon: the process does not end before it

    def wait(self) -> None:
        """Wait until the work is done; raise what it raised, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if (error := self._error) is not None:
            self._error = None
            _untold.remove(error)
            raise error


@atexit.register
def _tell() -> None:
    """Say at least at the end what nobody waited for, and let the exit code say it: Python has no gentler way."""
    for error in _untold:
        sys.excepthook(type(error), error, error.__traceback__)
    if _untold:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
