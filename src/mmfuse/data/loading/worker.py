"""Workers of a loader that die or hang: an error in bounded time that names the rows they were reading."""

import multiprocessing
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from mmfuse.data.errors import DataError
from mmfuse.data.loading.report import shown

_PID, _SINCE, _COUNT, _ROW, _ROWS = range(5)  # columns of the board
_LOOK = 5.0  # seconds after which a worker looks whether the main process is there
_DIES = 1.0  # seconds that a process may take from closing its connections to its end
_SHOWN = 5  # rows of a batch that are named
_IGNORED = [getattr(signal, name) for name in ("SIGINT", "SIGUSR1") if hasattr(signal, name)]


class Flight:
    """Which rows each worker is reading, in memory that it shares with the main process.

    Args:
        workers: how many there are.
        place: row -> where it stands, for messages.
    """

    def __init__(self, workers: int, place: Callable[[int], str]) -> None:
        self.broken = False
        self._board = torch.zeros(workers, _ROWS + _SHOWN, dtype=torch.int64).share_memory_()
        self._place = place
        self._dead: list[int] = []  # workers that were found to be gone

    def begin(self, worker: int, rows: list[int]) -> Any:
        """A worker begins a batch; the result's first entry is to be set to each row that it reads."""
        line = self._board[worker]
        first = rows[:_SHOWN]
        line[_ROWS : _ROWS + len(first)] = torch.tensor(first)
        line[:_ROWS] = torch.tensor([os.getpid(), time.monotonic_ns(), len(rows), rows[0]])
        return line[_ROW:].numpy()

    def end(self, worker: int) -> None:
        """A worker has read its batch."""
        self._board[worker, _COUNT] = 0

    def explain(self, error: Exception, timeout: float) -> str:
        """The message for an error of the DataLoader: which worker, and its rows."""
        told = re.findall(r"\d+", "".join(re.findall(r"pid\D*[\d, ]+", str(error))))
        pids = list(map(int, told)) or self._dead
        board = [line for line in self._board.tolist() if line[_COUNT]]
        dead = [line for line in board if line[_PID] in pids]
        if pids:
            said = str(error).strip().rstrip(".") if told else f"process {pids[0]} is gone, with what it had read"
            what = f"A process that reads for the loader has ended: {said}."
            mend = "If it was killed, memory may have run out: use fewer workers, or smaller batches."
        else:
            dead = sorted(board, key=lambda line: line[_SINCE])[:1]
            what = f"A process that reads for the loader has given nothing for {timeout:g} s."
            mend = "Give a longer timeout if the files are large or the disk is slow."
        rows = "; ".join(map(self._rows, dead)) or "nothing"
        look = "Read these rows with workers=0 to see what they do."
        return f"{what} It was reading {rows}. Expected a batch. {look} {mend}"

    def concerns(self, error: Exception) -> bool:
        """Whether the DataLoader itself complains of its workers; what a worker has raised is not that.

        A batch is fetched from the worker that has read it: of one that has died since, the connection fails.
        """
        if isinstance(error, RuntimeError):
            return str(error).startswith("DataLoader ")
        if str(error).startswith("Caught "):  # in a worker
            return False
        until = time.monotonic() + _DIES
        while not (dead := self._ended()) and time.monotonic() < until:
            time.sleep(0.01)
        self._dead = dead
        return bool(dead)

    def _ended(self) -> list[int]:
        """Workers that have read anything and are gone."""
        alive = {child.pid for child in multiprocessing.active_children()}
        return [pid for pid in self._board[:, _PID].tolist() if pid and pid not in alive]

    def stop(self) -> None:
        """End the workers that have read anything, at once: one that hangs would not listen."""
        self.broken = True  # the signal of their end is expected
        pids = set(self._board[:, _PID].tolist())
        for child in multiprocessing.active_children():
            if child.pid in pids:
                child.kill()

    def watch(self) -> None:
        """Let torch's own alarm, which can come at any moment, name the rows. After the workers have started."""
        _FLIGHTS.add(self)
        if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD"):
            before = signal.getsignal(signal.SIGCHLD)
            if callable(before) and not isinstance(before, _Alarm):
                signal.signal(signal.SIGCHLD, _Alarm(before))

    def owns(self, error: RuntimeError) -> bool:
        """Whether one of its workers is named in an error of the DataLoader."""
        return any(pid and f"pid {pid})" in str(error) for pid in self._board[:, _PID].tolist())

    def _rows(self, line: list[int]) -> str:
        batch = line[_ROWS : _ROWS + min(_SHOWN, line[_COUNT])]
        return f"{self._place(line[_ROW])} (its batch: {shown(list(map(self._place, batch)), line[_COUNT])})"


@contextmanager
def holding_signals() -> Iterator[None]:
    """While workers start: a signal to all processes would end one that cannot outlive it yet.

    It waits: in a worker until it can, in this process until the context ends.
    """
    if not hasattr(signal, "sigtimedwait"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, *_IGNORED})  # which a child inherits
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outlive_signals(_: int) -> None:
    """Let a worker go on when a signal to stop is sent to all processes of a group, as Ctrl-C and torchrun do.

    The main process may still need its batches, up to the step after which it saves. The worker ends when that one
    ends it, or is gone.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # of all threads, so that one can look who sent it
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        sent = signal.sigtimedwait({signal.SIGTERM}, _LOOK)
        if sent is not None and sent.si_pid == parent:
            break
    os._exit(0)


_FLIGHTS: "weakref.WeakSet[Flight]" = weakref.WeakSet()


class _Alarm:
    """torch's handler of a child's end, with the rows added to what it raises."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        message = ""
        try:
            self.handler(number, frame)
        except RuntimeError as error:
            flight = next((flight for flight in _FLIGHTS if flight.owns(error)), None)
            if flight is None:
                raise
            if not flight.broken:
                flight.broken = True
                message = flight.explain(error, 0)
        if message:
            raise DataError(message)
