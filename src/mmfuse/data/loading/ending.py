"""The processes of a DataLoader end in order, also where Python finds the loader in a reference cycle."""

import os
import weakref
from typing import Any

from torch.utils.data import DataLoader

_HELD: "weakref.WeakKeyDictionary[DataLoader, Any]" = weakref.WeakKeyDictionary()
_INHERITED: list[Any] = []


def hold_workers(loader: DataLoader, batches: Any) -> None:
    """Keep the iterator of a DataLoader from here until the loader itself is gone. Again for the same one is nothing.

    An error that is caught and kept is in a cycle with every frame it went through, so a loader often is, too. Of a
    cycle, Python ends the threads that write to the workers before the iterator can tell the workers to end: 5 s of
    waiting for each, then a kill, and pipes that two at a time may close. What is held from here is in no cycle.
    """
    _HELD[loader] = batches


def _inherit() -> None:
    """A fork has a copy of every loader, but the workers are not its own to end."""
    _INHERITED.extend(_HELD.values())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inherit)
