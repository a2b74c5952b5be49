"""What several processes hold in pieces, as one of them writes it down while the others wait."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from mmfuse.distributed.connect import is_main, rank, world

_MEETING = 60.0  # seconds in which all processes have to call what all must call
_WRITING = 3600.0  # seconds that rank 0 may take
_EVERY = 0.05  # seconds between two looks

_calls: dict[str, int] = {}  # how often each thing was done by this process


def is_shared_out(tensor: Any) -> bool:
    """Whether processes hold pieces of this tensor: a DTensor, whose import is slow."""
    return hasattr(tensor, "placements") and hasattr(tensor, "device_mesh")


def local_part(tensor: Any) -> Tensor:
    """What this process holds of a tensor: its piece, or all."""
    return tensor.to_local().detach() if is_shared_out(tensor) else tensor.detach()


def whole_state(module: nn.Module, caller: str) -> dict[str, Tensor]:
    """The state dict of a module; what FSDP2 has shared out is put together, on rank 0 alone and on its CPU.

    Raises:
        RuntimeError: the weights are shared out, and not every process calls.
    """
    state: dict[str, Any] = module.state_dict()
    if not any(map(is_shared_out, state.values())):
        return state
    _meet(caller)
    whole = {}
    for name, tensor in state.items():  # one after another, so that no GPU has to hold all
        full = tensor.full_tensor() if is_shared_out(tensor) else tensor
        if is_main():
            whole[name] = full.cpu()
    return whole


@contextmanager
def rank_0_first(what: str) -> Iterator[bool]:
    """A context in which rank 0 is to do something (True); the others (False) wait at its end until that is done.

    They hear of it through the store: where only rank 0 comes, as in ``if is_main():``, it waits for nobody.

    Raises:
        RuntimeError: rank 0 could not do it.
    """
    if world() == 1 or not dist.is_initialized():
        yield is_main()
        return
    store, key = _store(), _key(what)
    if not is_main():
        yield False
        _wait(store, [key], _WRITING, f"{what}: rank 0 has not come within {_WRITING:.0f} seconds, or never will.")
        if problem := store.get(key).decode():
            raise RuntimeError(f"{what} failed on rank 0: {problem}")
        return
    problem = "it was stopped"
    try:
        yield True
        problem = ""
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise
    finally:
        store.set(key, problem)


def _meet(caller: str) -> None:
    """Wait until every process has come here, before any of them waits for good."""
    store, key = _store(), _key(f"{caller} together")
    store.set(f"{key}/{rank()}", "")
    keys = [f"{key}/{number}" for number in range(world())]
    mend = f"Call {caller} on every process, not only where is_main(): rank 0 alone writes."
    _wait(store, keys, _MEETING, f"{caller} needs all {world()} processes: each holds a part of the weights. {mend}")


def _wait(store: dist.Store, keys: list[str], longest: float, message: str) -> None:
    end = time.monotonic() + longest
    while not store.check(keys):
        if time.monotonic() > end:
            raise RuntimeError(message)
        time.sleep(_EVERY)


def _key(what: str) -> str:
    _calls[what] = _calls.get(what, 0) + 1
    return f"{what}/{_calls[what]}"


def _store() -> dist.Store:
    return dist.PrefixStore("whole", dist.distributed_c10d._get_default_store())
