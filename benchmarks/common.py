"""What every benchmark stands on: two things timed in turn, peak memory, kernels, and rows for people and machines.

Absolute times mean nothing on a shared machine. Everything here is a ratio of two callables that run in turn in one
process, on one thread, in CPU time (on a GPU: between two events).
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Run = Callable[[], Any]
MATRIX_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
VIEWS = (
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze", "slice", "select", "split",
    "unbind", "detach", "alias", "as_strided", "_reshape_alias", "split_with_sizes", "chunk", "diagonal", "unfold",
    "lift_fresh", "sym_size", "sym_stride",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One comparison: ``ratio`` is ours / other; ``met`` says whether it is at most ``target``."""

    name: str
    ours: float
    other: float
    ratio: float
    target: float | None = None
    unit: str = "ms"
    note: str = ""

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.ratio <= self.target


def options(description: str | None, **more: dict[str, Any]) -> argparse.Namespace:
    """The arguments of a benchmark: ``--quick``, ``--json FILE``, and its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows for machines, too")
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    return parser.parse_args()


def paired(ours: Run, other: Run, *, pairs: int = 9, least_seconds: float = 0.02) -> tuple[float, float, float]:
    """Median milliseconds of both and the median ratio of neighbouring runs, in turn: ours, other, ours, other ..."""
    times = ([], [])  # type: tuple[list[float], list[float]]
    repeat = [max(1, round(least_seconds / max(1e-6, _seconds(run, 1, warm=True)))) for run in (ours, other)]
    for pair in range(pairs):
        order = ((0, ours), (1, other)) if pair % 2 == 0 else ((1, other), (0, ours))
        for side, run in order:
            times[side].append(_seconds(run, repeat[side]) / repeat[side])
    ratios = [a / b for a, b in zip(*times, strict=True)]
    return 1e3 * statistics.median(times[0]), 1e3 * statistics.median(times[1]), statistics.median(ratios)


def _seconds(run: Run, repeat: int, *, warm: bool = False) -> float:
    """Time of some runs: CPU time of this process, or time on the GPU if there is one."""
    if warm:
        run()
    if torch.cuda.is_available():
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeat):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3
    began = time.process_time()
    for _ in range(repeat):
        run()
    return time.process_time() - began


def peak_mib(run: Run, reset: Run = lambda: None) -> float:
    """The most memory that one run held beyond what stood before it, in MiB.

    ``reset`` frees what the run before left behind, such as gradients: freed within the run, it would be counted twice.
    """
    run()
    reset()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    held = most = 0
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


class Operations(TorchDispatchMode):
    """Counts the kernels (operations that are no views) and keeps the shapes of the matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.products: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.kernels += name not in VIEWS
        if name in MATRIX_PRODUCTS:
            self.products.append((func, tuple(_shape(value) for value in args)))
        return func(*args, **(kwargs or {}))


def _shape(value: Any) -> Any:
    return (tuple(value.shape), value.stride(), value.dtype) if isinstance(value, torch.Tensor) else value


def kernels(run: Run) -> int:
    """How many operations that are no views one run takes: on a GPU about so many launches."""
    with Operations() as counted:
        run()
    return counted.kernels


def replay(run: Run) -> Run:
    """The matrix products of a run alone, back to back, on tensors of the same shapes and strides."""
    with Operations() as counted:
        run()
    products = [
        (func, [_like(value) if isinstance(value, tuple) and len(value) == 3 else value for value in shapes])
        for func, shapes in counted.products
    ]

    def products_alone() -> None:
        for func, values in products:
            func(*values)

    return products_alone


def _like(described: tuple[Any, ...]) -> torch.Tensor:
    shape, stride, dtype = described
    return torch.empty_strided(shape, stride, dtype=dtype).fill_(0.1)


def report(rows: Sequence[Row], *, to: Path | None = None, quick: bool = False) -> None:
    """Print the rows as a table, and write them as JSON if asked."""
    print(table(rows))
    missed = [row.name for row in rows if row.met is False]
    print(f"\n{sum(row.met is True for row in rows)} targets met, {len(missed)} missed{': ' if missed else ''}"
          f"{', '.join(missed)}")  # fmt: skip
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(
            json.dumps({"rows": [as_json(row) for row in rows], "quick": quick, **machine()}, indent=1) + "\n"
        )


def as_json(row: Row) -> dict[str, Any]:
    return {**asdict(row), "met": row.met}


def table(rows: Iterable[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| what | ours | other | ratio | target | met |", "|---|---:|---:|---:|---:|---|"]
    for row in rows:
        met = {None: "", True: "yes", False: "no"}[row.met]
        target = "" if row.target is None else f"{row.target:g}"
        note = f" ({row.note})" if row.note else ""
        lines.append(
            f"| {row.name}{note} | {row.ours:.4g} {row.unit} | {row.other:.4g} {row.unit} | {row.ratio:.2f} "
            f"| {target} | {met} |"
        )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"torch": torch.__version__, "device": device, "threads": torch.get_num_threads()}
