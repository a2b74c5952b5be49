"""What goes wrong in one process of a run ends all of them, soon, and each says where it began."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist

from mmfuse.distributed.connect import rank, world

_EVERY = 0.2  # seconds between two looks at what the others say
_PATIENCE = 0.5  # seconds for a process to notice by itself that another has failed
_GRACE = 3.0  # seconds until one that has not noticed is ended
_LOST = ("gloo/", "Connection closed by peer", "Connection reset by peer", "NCCL")  # in what torch says of a lost one

_entered = 0  # how many contexts this process was in; the same in all
_inside = False


@contextmanager
def together() -> Iterator[None]:
    """A context that every process enters: an exception in one of them ends all.

    The process where it began raises its own exception; the others, even if they wait for it, raise a
    ``RuntimeError`` that names its rank and the cause. One that is stuck elsewhere is ended by its watch, a thread,
    with exit code 1. Without effect on one process, and inside another.

    Raises:
        RuntimeError: another process failed, was killed, or did not come within the timeout of :func:`connect`.
    """
    global _entered, _inside
    if world() == 1 or _inside:
        yield
        return
    _entered += 1
    _inside = True
    # A connection of its own: a process that waits for others to make a group holds its first one until they come.
    store = dist.distributed_c10d._get_default_store().clone()
    watch = _Watch(dist.PrefixStore(f"together/{_entered}", store))
    watch.start()
    try:
        yield
    except Exception as error:
        watch.stop()
        with _deaf():
            if not _is_loss(error):
                watch.tell(error)
                raise
            raise RuntimeError(watch.explain(error)) from error
    finally:
        _inside = False
        watch.stop()


@contextmanager
def _deaf() -> Iterator[None]:
    """Without SIGTERM: torchrun sends it to all as soon as one is killed, before they can say which one it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


class _Watch(threading.Thread):
    """Reads and writes what processes say of their failures, in the store through which they met."""

    def __init__(self, store: dist.Store) -> None:
        super().__init__(daemon=True)
        self.store = store
        self.rank = rank()
        self.others = [number for number in range(world()) if number != self.rank]
        self._stopped = threading.Event()

    def run(self) -> None:
        with suppress(RuntimeError):  # the store is gone: the process that held it has ended, and so does the watch
            while not self._has("failed"):
                if self._stopped.wait(_EVERY):
                    return
            if self._stopped.wait(_PATIENCE):
                return
            if self.rank == 0:
                self._write(self._causes())
            self.store.set(f"heard/{self.rank}", "")
            if not self._stopped.wait(_GRACE):
                self._write(f"{self._causes()} Rank {self.rank} did not notice, and is ended.")
                os._exit(1)

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=_EVERY)

    def tell(self, error: Exception) -> None:
        """Say why this process fails, and wait until the others know: a launcher may end them at once."""
        with suppress(RuntimeError):
            self.store.set(f"cause/{self.rank}", f"{type(error).__name__}: {error}")
            self.store.set("failed", "")
            self._until(lambda: all(self._has(f"cause/{n}") or self._has(f"heard/{n}") for n in self.others))

    def explain(self, error: Exception) -> str:
        """Why this process lost another."""
        with suppress(RuntimeError):
            self.store.set(f"heard/{self.rank}", "")
            self.store.set(f"lost/{self.rank}", "")
            self.store.set("failed", "")
            self._until(lambda: any(self._has(f"cause/{n}") for n in self.others) or not self._silent())
            return self._causes() + f" Rank {self.rank} ends with it."
        return f"The processes lost each other, and the store through which they met is gone: {error}"

    def _causes(self) -> str:
        """What is known of the failure, for a message."""
        causes = {n: self.store.get(f"cause/{n}").decode() for n in self.others if self._has(f"cause/{n}")}
        if causes:
            return " ".join(f"Rank {n} of {len(self.others) + 1} has failed: {cause}" for n, cause in causes.items())
        lost = self._silent() or self.others
        return (
            f"Rank {' and '.join(map(str, lost))} of {len(self.others) + 1} gave no sign: killed, out of memory, or "
            "stuck for longer than the timeout of connect(). Expected all processes to make the same steps. Look into "
            "its log; resume=True goes on from the last checkpoint."
        )

    def _silent(self) -> list[int]:
        """Other processes that have said nothing of a failure or a loss."""
        return [n for n in self.others if not (self._has(f"cause/{n}") or self._has(f"lost/{n}"))]

    def _until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + _GRACE
        while time.monotonic() < end and not done():
            time.sleep(_EVERY / 4)

    def _has(self, key: str) -> bool:
        return self.store.check([key])

    def _write(self, text: str) -> None:
        sys.stderr.write(f"mmfuse: {text}\n")
        sys.stderr.flush()


def _is_loss(error: Exception) -> bool:
    """Whether an error is about another process, and not of this one's making."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(x in str(error) for x in _LOST)
    )
