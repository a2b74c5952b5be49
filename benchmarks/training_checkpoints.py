"""G28: how long a checkpoint holds training up, and how much it writes."""

import shutil
import statistics
import time
from pathlib import Path

import torch
from common import Row, Run
from data_measure import Case, Setting
from torch import nn
from training_models import DEVICE

from mmfuse.training import Checkpoints, make_optimizer

MIB = 2**20


def checkpoints(setting: Setting) -> list[Row]:
    """Layers and AdamW, a third of the layers frozen; a checkpoint of each step, as ``fit`` writes them.

    How fast a copy is depends by up to a quarter on where its buffers came to lie: so there are several beginnings.
    """
    starts, width, steps = (1, 512, 5) if setting.quick else (3, 2048, 7)
    stalls: list[float] = []
    copies: list[float] = []
    for start in range(starts):
        folder = setting.place(f"checkpoints {start}")
        size = _stalls(folder, width, steps, stalls, copies)
        written = _written(folder / "checkpoints")
        shutil.rmtree(folder)
    mine, others = (1e3 * statistics.median(each) for each in (stalls, copies))
    ratio = statistics.median(a / b for a, b in zip(stalls, copies, strict=True))
    note = f"{size / MIB:.0f} MiB of weights that are trained and of AdamW"
    return [
        Row("checkpoint: the stall to a copy to the host", mine, others, ratio, setting.target(1.3), note=note),
        Row("checkpoint: what is written to that", written / MIB, size / MIB, written / size, 1.01, "MiB"),
    ]


def _stalls(folder: Path, width: int, steps: int, stalls: list[float], copies: list[float]) -> int:
    """Seconds that checkpoints held training up, and that copies of as much took, in turn; returns the bytes of one."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(9))).to(DEVICE)
    model[:3].requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer([{"name": "new", "params": trained}])
    model(torch.ones(1, width, device=DEVICE)).sum().backward()
    optimizer.step()
    kept = [*trained, *(x for state in optimizer.state.values() for x in state.values())]
    writer, parts, copy = Checkpoints(folder), {"model": model, "optimizer": optimizer}, _host_copy(kept)
    for step in range(steps):
        runs = [(copy, copies), (lambda step=step: writer.save(step, parts, {"settings": {}}), stalls)]
        for run, seconds in runs[:: 1 if step % 2 == 0 else -1]:
            taken = _seconds(run)
            if step:  # the first one makes its buffers and writes what is frozen
                seconds.append(taken)
        writer.wait()
    return sum(x.numel() * x.element_size() for x in kept)


def _host_copy(tensors: list[torch.Tensor]) -> Run:
    """Nothing but the copy, into buffers that are there."""
    buffers = [torch.empty(x.shape, dtype=x.dtype, pin_memory=x.is_cuda) for x in tensors]

    def copy() -> None:
        for buffer, tensor in zip(buffers, tensors, strict=True):
            buffer.copy_(tensor.detach(), non_blocking=True)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return copy


def _seconds(run: Run) -> float:
    """CPU time of this thread alone, as the files are written by another; on a GPU by the clock, which waits for it."""
    now = time.perf_counter if DEVICE.type == "cuda" else time.thread_time
    began = now()
    run()
    return now() - began


def _written(folder: Path) -> int:
    """Bytes of the newest checkpoint; what is frozen stands beside it, written once for all."""
    newest = max(path for path in folder.iterdir() if path.is_dir() and path.name.startswith("step-"))
    return sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())


CASES: dict[str, Case] = {"checkpoints": checkpoints}
