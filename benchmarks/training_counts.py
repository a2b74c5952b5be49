"""What does not depend on the machine: how often a step waits for its device, and whether steps leave memory behind."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import torch
from common import Row
from data_measure import Case, Setting
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_loops import by_hand, silent_fit
from training_models import nothing, three_modalities
from training_turns import Loop

from mmfuse import Batch, MultimodalModel

MODELS: dict[str, Callable[..., tuple[MultimodalModel, list[Batch]]]] = {
    "three transformers": three_modalities,
    "empty model": nothing,
}
KIB = 2**10


class Waits(TorchDispatchMode):
    """Counts what a GPU would have to be waited for: numbers read, and shapes that depend on values."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal")
    ON_CPU = ("known_counts",)  # reads labels before they leave the CPU

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()  # where, by function
        self._lists = _Lists(self)

    def __enter__(self) -> "Waits":
        self._lists.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._lists.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.NAMES or (name in ("index", "index_put_") and _by_truth(args[1])):
            self.note()
        return func(*args, **(kwargs or {}))

    def note(self) -> None:
        """Count a wait in the innermost function of ours that is at work."""
        frame = sys._getframe(2)
        while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] != "mmfuse":
            frame = frame.f_back
        self.places[frame.f_code.co_name] += frame.f_code.co_name not in self.ON_CPU


class _Lists(TorchFunctionMode):
    """Whole tensors that become lists or arrays: on a CPU that is no operation of its own."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("tolist", "numpy"):
            self.waits.note()
        return func(*args, **(kwargs or {}))


def _by_truth(indices: Sequence[Any]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def waits(_: Setting) -> list[Row]:
    """Beyond those of the model itself, which the hand-written loop has too."""
    rows = []
    for name, make in MODELS.items():
        ours, other = (waits_per_step(loop, *make(size=4)) for loop in (silent_fit, by_hand))
        row = f"waiting for the device in a step, {name}: fit, beyond the hand-written loop"
        rows.append(Row(row, ours, other, ours - other, 1, "", "one: is every loss and gradient finite?"))
    return rows


def waits_per_step(loop: Callable[..., object], model: MultimodalModel, batches: list[Batch]) -> float:
    """What more steps add: starting and ending a run cost the same for both numbers."""
    few, many = 4, 12  # whole rounds of the batches
    found = []
    for steps in (few, many):
        with Waits() as counted:
            loop(model, Some(batches, steps))
        found.append(counted.places.total())
    return (found[1] - found[0]) / (many - few)


def memory(setting: Setting) -> list[Row]:
    """Growth of tensors, which is exact, and of the memory that the process has for itself, which is not."""
    rows = []
    for name, make in MODELS.items():
        grown = tensor_growth(silent_fit, *make(size=4))
        rows.append(Row(f"growth of memory in tensors, {name}: KiB a step", grown / KIB, 0, grown / KIB, 0, "KiB"))
    steps = 40 if setting.quick else 400
    for name, make in MODELS.items():
        grown = process_growth(silent_fit, *make(size=4), steps=steps)
        row = f"growth of memory of the process, {name}: KiB a step, to 10"
        rows.append(Row(row, grown / KIB, 10, grown / KIB / 10, 1, "KiB", f"over {steps} steps"))
    return rows


class Live(TorchDispatchMode):
    """Knows which of the tensors that were made since are still held by somebody."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made[StorageWeakRef(storage)] = storage.nbytes()
        return found

    def bytes(self) -> int:
        self.made = {storage: size for storage, size in self.made.items() if not storage.expired()}
        return sum(self.made.values())


def tensor_growth(loop: Loop, model: MultimodalModel, batches: list[Batch], *, steps: int = 12) -> float:
    """Bytes of tensors that a step leaves behind, after four to warm up."""
    live = Live()
    marks: list[int] = []

    def look(number: int) -> None:
        if number in (4, 4 + steps):
            marks.append(live.bytes())

    with live:
        loop(model, Some(batches, 5 + steps, look))
    return (marks[1] - marks[0]) / steps


def process_growth(loop: Loop, model: MultimodalModel, batches: list[Batch], *, steps: int) -> float:
    """Private bytes of this process that a step adds, after a quarter as many steps to warm up."""
    marks: list[int] = []

    def look(number: int) -> None:
        if number in (steps // 4, steps // 4 + steps):
            marks.append(psutil.Process().memory_full_info().uss)

    loop(model, Some(batches, steps // 4 + steps + 1, look))
    return max(0, marks[1] - marks[0]) / steps


class Some:
    """So many batches, out of a few; ``look`` sees the number of each before it is handed out."""

    def __init__(self, batches: list[Batch], steps: int, look: Callable[[int], None] = lambda _: None) -> None:
        self.batches, self.steps, self.look = batches, steps, look

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.steps):
            self.look(number)
            yield self.batches[number % len(self.batches)]


CASES: dict[str, Case] = {"waits": waits, "memory": memory}
