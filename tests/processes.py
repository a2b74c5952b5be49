"""Runs a function in several processes that are forked from this one, so that nothing is imported again.

    results = run(2, work, tmp_path)           # work(tmp_path) in two processes that have met; what each returned
    ended = outcomes(2, work, timeout=30.0)    # for failures: an Outcome of each
    @in_a_process_of_its_own                   # for a test after which no process could be forked

Inside ``work``, ``mmfuse.distributed.rank()`` says which process it is. Results are pickled: tensors, numbers, lists.
"""

import contextlib
import ctypes
import functools
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mmfuse.distributed import connect, disconnect

_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl


def in_a_process_of_its_own(test: Callable[..., None]) -> Callable[..., None]:
    """A test that is run in a process forked for it.

    A backward pass without values, which compiling makes too, starts threads of autograd: processes that are forked
    later could not go backwards. Tests of a file share their process with files that come after.
    """

    @functools.wraps(test)
    def forked(*args: Any, **given: Any) -> None:
        (ended,) = outcomes(1, lambda: test(*args, **given), meet=False, timeout=300.0)
        assert ended.code == 0, ended.log

    return forked


@dataclass
class Outcome:
    """How a process ended."""

    code: int  # its exit code: 0, 1 after an exception, that of a SystemExit, minus the number of a signal
    result: Any  # what the function returned
    error: BaseException | None  # what it raised
    log: str  # what it wrote to stdout and stderr
    seconds: float  # from the start of all to its end
    timed_out: bool  # it was killed because the time was over


def run(world: int, function: Callable[..., Any], *args: Any, timeout: float = 120.0) -> list[Any]:
    """What ``function(*args)`` returned in each of ``world`` processes; fails if one did not end well."""
    ended = outcomes(world, function, *args, timeout=timeout)
    if any(each.code for each in ended):
        said = "\n".join(f"--- rank {rank}, code {each.code}\n{each.log}" for rank, each in enumerate(ended))
        raise AssertionError(f"{sum(map(bool, (e.code for e in ended)))} of {world} processes failed:\n{said}")
    return [each.result for each in ended]


def outcomes(
    world: int,
    function: Callable[..., Any],
    *args: Any,
    timeout: float = 120.0,
    waits: float = 60.0,
    meet: bool = True,
) -> list[Outcome]:
    """How ``function(*args)`` ended in each of ``world`` processes. None of them outlives this call.

    Args:
        world: how many processes.
        function: called in each of them.
        args: its arguments.
        timeout: seconds after which those that still run are killed, with all that they have started.
        waits: the ``timeout`` of ``connect``.
        meet: connect the processes first; else they only have torchrun's environment.
    """
    hear, tell = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(world):
            if not (child := os.fork()):
                os.close(tell)
                _be(rank, world, hear, Path(folder), lambda: function(*args), waits if meet else None)
            children.append(child)
        # This process holds the store, as torchrun's agent does: so no port has to be guessed. Not before the forks: a
        # process forked while the thread of the store answers one has locks of the C library that nobody gives back.
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(tell, f"{store.port:5}".encode() * world)
        os.close(hear)
        os.close(tell)
        codes, seconds, late = _wait(children, began, timeout)
        return [Outcome(codes[rank], *_left(Path(folder), rank), seconds[rank], rank in late) for rank in range(world)]


def _be(rank: int, world: int, hear: int, folder: Path, work: Callable[[], Any], waits: float | None) -> None:
    """Be one of the processes; never returns."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)
        os.setsid()  # a group of its own, to be killed with all that it starts
        log = os.open(folder / f"{rank}.log", os.O_CREAT | os.O_WRONLY)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)  # not those of pytest
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        torch.set_num_threads(1)
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        port = int(os.read(hear, 5))
        where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        where |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": 0}
        os.environ.update({name: str(value) for name, value in where.items()})
        code = _work(folder / f"{rank}.pickle", work, waits)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _work(path: Path, work: Callable[[], Any], waits: float | None) -> int:
    result, error, code = None, None, 0
    try:
        if waits is not None:
            connect(waits)
        result = work()
    except SystemExit as stop:
        error, code = stop, stop.code if isinstance(stop.code, int) else 1
    except BaseException as failure:
        traceback.print_exc()
        error, code = failure, 1
    path.write_bytes(_pickled(result, error))
    disconnect()
    return code


def _pickled(result: Any, error: BaseException | None) -> bytes:
    try:
        written = pickle.dumps((result, error))
        pickle.loads(written)
    except Exception:
        if error is None:
            raise
        return pickle.dumps((result, RuntimeError(f"{type(error).__name__}: {error}")))
    return written


def _wait(children: list[int], began: float, timeout: float) -> tuple[list[int], list[float], set[int]]:
    """Exit codes and times of all children, and which of them had to be killed."""
    codes: dict[int, int] = {}
    seconds: dict[int, float] = {}
    late: set[int] = set()
    try:
        while len(codes) < len(children):
            for rank, child in enumerate(children):
                done, status = (0, 0) if rank in codes else os.waitpid(child, os.WNOHANG)
                if done:
                    codes[rank], seconds[rank] = os.waitstatus_to_exitcode(status), time.monotonic() - began
            if time.monotonic() - began > timeout and len(codes) < len(children) and not late:
                late = set(range(len(children))) - set(codes)
                for rank in late:
                    _kill(children[rank])
            time.sleep(0.01)
    finally:
        for child in children:
            _kill(child)
    return [codes[rank] for rank in range(len(children))], [seconds[rank] for rank in range(len(children))], late


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def _left(folder: Path, rank: int) -> tuple[Any, BaseException | None, str]:
    """What a process has left behind: result, error, log."""
    pickled, log = folder / f"{rank}.pickle", folder / f"{rank}.log"
    result, error = pickle.loads(pickled.read_bytes()) if pickled.exists() else (None, None)
    return result, error, log.read_text(errors="replace") if log.exists() else ""
