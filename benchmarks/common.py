"""What every benchmark stands on: things timed in turn, peak memory, kernels, and rows for people and machines.

Absolute times mean nothing on a shared machine. Everything here is a ratio of callables that run in turn in one
process, on one thread, in CPU time (on a GPU: between two events).
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Run = Callable[[], Any]
MATRIX_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv")
VIEWS = (
    "view", "_unsafe_view", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze", "slice", "select", "split",
    "unbind", "detach", "alias", "as_strided", "_reshape_alias", "split_with_sizes", "chunk", "diagonal", "unfold",
    "lift_fresh", "sym_size", "sym_stride",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One comparison: ``ratio`` is ours / other, and is to be at most ``target`` (or at least, for scores)."""

    name: str
    ours: float
    other: float
    ratio: float
    target: float | None = None
    unit: str = "ms"
    note: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def options(description: str | None, **more: dict[str, Any]) -> argparse.Namespace:
    """The arguments of a benchmark: ``--quick``, ``--json FILE``, and its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repetitions: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows for machines, too")
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    return parser.parse_args()


def paired(ours: Run, other: Run, *, pairs: int = 9, least_seconds: float = 0.02) -> tuple[float, float, float]:
    """Median milliseconds of both and the median ratio of neighbouring runs, in turn: ours, other, other, ours ..."""
    (first, second), (ratio,) = in_turn([ours, other], rounds=pairs, least_seconds=least_seconds)
    return first, second, ratio


def in_turn(
    runs: Sequence[Run], *, rounds: int = 9, least_seconds: float = 0.02, seconds: tuple[float, float] = (0.0, 60.0)
) -> tuple[list[float], list[float]]:
    """Median milliseconds of each, and the median over rounds of first / other for each of the others.

    The order turns round by round, so that nothing always runs behind the same neighbour. More rounds follow until the
    first of ``seconds`` is spent; the second ends them early, but not before the third.
    """
    times: list[list[float]] = [[] for _ in runs]
    repeat = [max(1, round(least_seconds / max(1e-6, _seconds(run, 1, warm=True)))) for run in runs]
    turn, spent = 0, 0.0
    while turn < 3 or (spent < seconds[1] and (turn < rounds or spent < seconds[0])):
        for place in range(len(runs))[:: 1 if turn % 2 == 0 else -1]:
            taken = _seconds(runs[place], repeat[place])
            times[place].append(taken / repeat[place])
            spent += taken
        turn += 1
    ratios = [statistics.median(a / b for a, b in zip(times[0], other, strict=True)) for other in times[1:]]
    return [1e3 * statistics.median(each) for each in times], ratios


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
    with _silent(), torch.profiler.profile(profile_memory=True) as profile:
        run()
    held = most = 0
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the lines that the profiler prints from C when it starts and stops."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


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
        elif "scaled_dot_product" in name:
            self.products += _products_of_attention(args, backward=name.endswith("_backward"))
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Shape:
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def filled(self) -> torch.Tensor:
        held = 1 + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        return torch.full((max(held, 1),), 0.1, dtype=self.dtype, device=self.device).as_strided(self.size, self.stride)


def _shape(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return _Shape(tuple(value.shape), value.stride(), value.dtype, value.device)


def _products_of_attention(args: tuple[Any, ...], *, backward: bool) -> list[tuple[Any, tuple[Any, ...]]]:
    """The two matrix products that attention is made of, or the four of its gradients, of all heads at once."""
    q, k = args[1:3] if backward else args[:2]
    heads, queries, keys, width = q.shape[:-2].numel(), q.shape[-2], k.shape[-2], q.shape[-1]
    sizes = [(queries, width, keys), (queries, keys, width)] + 2 * backward * [(keys, queries, width)]
    return [(torch.bmm, (_dense(q, heads, a, b), _dense(q, heads, b, c))) for a, b, c in sizes]


def _dense(like: torch.Tensor, *size: int) -> _Shape:
    return _Shape(size, (size[1] * size[2], size[2], 1), like.dtype, like.device)


def kernels(run: Run) -> int:
    """How many operations that are no views one run takes: on a GPU about so many launches."""
    with Operations() as counted:
        run()
    return counted.kernels


def replay(run: Run) -> Run:
    """The matrix products of a run alone, back to back, on tensors of the same shapes and strides.

    Attention takes part with the products that it is made of, without its softmax. Tensors of equal shape are one.
    """
    with Operations() as counted:
        run()
    tensors: dict[tuple[int, _Shape], torch.Tensor] = {}
    products = []
    for func, values in counted.products:
        for place, value in enumerate(values):
            if isinstance(value, _Shape) and (place, value) not in tensors:
                tensors[place, value] = value.filled()
        products.append((func, [tensors.get((i, v), v) for i, v in enumerate(values)]))

    def products_alone() -> None:
        for func, values in products:
            func(*values)

    return products_alone


def report(rows: Sequence[Row], *, to: Path | None = None, quick: bool = False) -> None:
    """Print the rows as a table, and write them as JSON if asked."""
    print(table(rows))
    missed = [row.name for row in rows if row.met is False]
    print(f"\n{sum(row.met is True for row in rows)} targets met, {len(missed)} missed{': ' if missed else ''}"
          f"{', '.join(missed)}")  # fmt: skip
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        written = [{**asdict(row), "met": row.met} for row in rows]
        to.write_text(json.dumps({"rows": written, "quick": quick, **machine()}, indent=1) + "\n")


def table(rows: Iterable[Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| what | ours | other | ratio | target | met |", "|---|---:|---:|---:|---:|---|"]
    for row in rows:
        met, note = {None: "", True: "yes", False: "no"}[row.met], f" ({row.note})" if row.note else ""
        target = "" if row.target is None else f"{'>= ' * row.at_least}{row.target:g}"
        ours, other = (f"{value:.4g} {row.unit}".rstrip() for value in (row.ours, row.other))
        ratio = f"{row.ratio:.0e}" if 0 < row.ratio < 0.005 else f"{row.ratio:.2f}"
        lines.append(f"| {row.name}{note} | {ours} | {other} | {ratio} | {target} | {met} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"torch": torch.__version__, "device": device, "threads": torch.get_num_threads()}
