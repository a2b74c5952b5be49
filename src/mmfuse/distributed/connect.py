"""How the processes of a run meet: the environment of ``torchrun`` -> a process group over gloo and NCCL."""

import atexit
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_groups = 0  # made by this process so far: each has names of its own in the store
_background: tuple[Any, Any] = (None, None)  # the group of all processes that it was made beside, and itself


def connect(timeout: float = 600.0) -> None:
    """Meet the other processes of this run, if ``torchrun`` started several; else, or when done before, do nothing.

    ``fit``, ``evaluate`` and ``predict`` call it. Tensors on the CPU travel over gloo, those on a GPU over NCCL; each
    process takes the GPU of its ``LOCAL_RANK``. After a restart by ``torchrun --max-restarts`` the processes meet
    anew: torch's own way reads addresses of the dead ones there.

    Args:
        timeout: longest time in seconds for which a process waits for the others, here and in all that they do later.
    """
    global _groups
    if dist.is_initialized() or not _is_asked():
        return
    device = _take_gpu()
    wait, number = timedelta(seconds=timeout), int(os.environ["RANK"])
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # then torchrun holds the store
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=number == 0 and not agent,
        wait_for_workers=False,
        timeout=wait,
    )
    _groups += 1
    attempt = f"mmfuse/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{_groups}"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device is not None else "cpu:gloo",
        store=dist.PrefixStore(attempt, store),
        rank=number,
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=wait,
    )
    atexit.register(disconnect)


def disconnect() -> None:
    """Leave the other processes, if they are met. Happens by itself at the end of the program."""
    if dist.is_initialized():
        dist.destroy_process_group()


def background() -> Any:
    """A second group of all processes, over gloo: for one thread that talks while training does. None on one process.

    There is one for as long as the processes are met, with their timeout. The first time, all call it together.
    """
    global _background
    if world() == 1:
        return None
    connect()
    first = dist.group.WORLD
    if _background[0] is not first:
        timeout = first._get_backend(torch.device("cpu")).options._timeout  # type: ignore[union-attr]
        _background = (first, dist.new_group(backend="gloo", timeout=timeout))
    return _background[1]


def rank() -> int:
    """The number of this process among those of the run; 0 where there is one. Right before :func:`connect` too."""
    if dist.is_initialized():
        return dist.get_rank()
    return int(os.environ["RANK"]) if _is_asked() else 0


def world() -> int:
    """How many processes the run has. Right before :func:`connect` too."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if _is_asked() else 1


def is_main() -> bool:
    """Whether this is the process that writes files, logs and shows the bar: the one of rank 0."""
    return rank() == 0


def _is_asked() -> bool:
    return dist.is_available() and all(os.environ.get(name) for name in _VARIABLES)


def _take_gpu() -> int | None:
    """Make the GPU of this process the current one; None without CUDA."""
    if not torch.cuda.is_available():
        return None
    number, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= there:
        raise ValueError(
            f"torchrun started at least {number + 1} processes on a machine with {there} GPUs. Expected at most one "
            f"for each GPU. Pass --nproc-per-node={there}, or hide the GPUs: CUDA_VISIBLE_DEVICES=''."
        )
    torch.cuda.set_device(number)
    return number
