"""The next batch is copied to the GPU while the present one is used."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mmfuse.contracts import Batch
from mmfuse.distributed import world


def prefetch(batches: Iterable[Batch], device: torch.device | str) -> Iterator[Batch]:
    """The batches on a device, in their order; on a GPU each is copied while the one before it is used.

    There, one batch more than was handed out has been taken from ``batches``: count those that were used, as
    ``Loader.position`` wants it. An error comes in place of the batch that could not be made, after all before it; at
    once where there are several processes.

    Args:
        batches: on the CPU; a copy runs beside the computation only from pinned memory, as a ``Loader`` gives it.
        device: where they go.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return (batch if _is_on(batch, device) else batch.to(device) for batch in batches)
    return copy_ahead(batches, _SideStream(device))


@runtime_checkable
class SideStream(Protocol):
    """Where copies run beside the computation."""

    def copying(self) -> AbstractContextManager[Any]:
        """What is started inside runs on the side."""
        ...

    def join(self) -> Any:
        """Let the computation wait for all that was started so far; returns the stream of the computation."""
        ...

    def copy(self, batch: Batch) -> Batch:
        """Start to copy a batch."""
        ...


def copy_ahead(batches: Iterable[Batch], side: SideStream) -> Iterator[Batch]:
    """The batches, copied on the side; the copy of each is started before the one before it is handed out."""
    iterator = iter(batches)
    following = _start(iterator, side)
    while following is not None:
        present, following, error = following, None, None
        _claim(present, side.join())  # before the next copy: that one is not to be waited for
        try:
            following = _start(iterator, side)
        except Exception as raised:
            if world() > 1:  # the others are waiting for this process, and use the present batch only after that
                raise
            error = raised
        yield present
        if error is not None:
            raise error


def _is_on(batch: Batch, device: torch.device) -> bool:
    """Whether all of a batch is there already: to look is faster than to move nothing."""
    inputs = (x for given in batch.inputs.values() for x in (given.values, given.present, given.mask))
    targets = (x for target in batch.targets.values() for x in (target.values, target.known))
    return all(x is None or x.device == device for x in (*inputs, *targets))


def _start(iterator: Iterator[Batch], side: SideStream) -> Batch | None:
    batch = next(iterator, None)
    if batch is None:
        return None
    with side.copying():
        return side.copy(batch)


def _claim(batch: Batch, stream: Any) -> None:
    """Keep the memory of a batch, which belongs to the side stream, until the computation is done with it."""
    for leaf in pytree.tree_leaves(batch):
        if isinstance(leaf, Tensor):
            leaf.record_stream(stream)


class _SideStream:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def copying(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream)

    def join(self) -> Any:
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        return current

    def copy(self, batch: Batch) -> Batch:
        return batch.to(self._device, non_blocking=True)
