"""What each process holds and sends in a step: forked processes that really meet, under DDP and FSDP2."""

import faulthandler
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.fsdp  # here, and not once in each process
from common import Row
from scaling_models import Size, make_batch, make_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmfuse.distributed import connect, disconnect
from mmfuse.losses import Sum
from mmfuse.training import Objective, Precision, make_optimizer, parameter_groups, train_epoch
from mmfuse.training.distributed import parallel
from mmfuse.training.sharding import shard

LONGEST = 120  # seconds
KINDS = {"allreduce_": "all-reduced", "_allgather_base_": "gathered", "_reduce_scatter_base_": "reduced and scattered"}


def held_rows(quick: bool) -> list[Row]:
    """Bytes of parameters, gradients and optimizer in each process, to those of one on its own."""
    size = Size(samples=2, tokens=4) if quick else Size(samples=2, tokens=4, dim=128)
    alone = in_processes(1, measure, size, "auto")[0]["held"]
    rows = [_mib("one process: held, to 16 bytes a parameter", alone, 16 * _parameters(size), 1.001)]
    for strategy in ("ddp", "fsdp"):
        for world in (1, 2, 4):
            most = max(each["held"] for each in in_processes(world, measure, size, strategy))
            part = alone if strategy == "ddp" else alone / world
            name = f"{strategy}, {world} process{'es' * (world > 1)}: held by each, to "
            name += "those of one on its own" if strategy == "ddp" or world == 1 else f"1/{world} of it"
            rows.append(_mib(name, most, part, 1.02))
    return rows


def sent_rows(_: bool) -> list[Row]:
    """Bytes that a step hands to the network in each process, to what is trained."""
    size = Size(samples=2, tokens=4)
    trained = 4 * _parameters(size)
    gathered = trained + size.block_bytes
    loss = 4  # bytes: that of the one task is brought together, too
    ddp, fsdp, half = (
        in_processes(2, measure, size, *how)[0]["sent"] for how in (("ddp",), ("fsdp", 1), ("ddp", 0, True))
    )
    learned = trained - _encoder_bytes(size)
    return [
        _kib("ddp: all-reduced, to gradients and loss", ddp["all-reduced"], trained + loss, 1),
        _kib("ddp, one of two encoders frozen: the same, of what is trained", half["all-reduced"], learned + loss, 1),
        _kib("fsdp: parameters gathered, to blocks twice and all else once", fsdp["gathered"], gathered, 1.02),
        _kib("fsdp: gradients reduced and scattered, to the parameters", fsdp["reduced and scattered"], trained, 1.02),
        _kib("ddp: what else the processes tell each other, to the parameters", ddp["told"], trained, 0.001),
    ]  # fmt: skip


def measure(size: Size, strategy: str, unit_bytes: int = 0, freeze: bool = False) -> dict[str, Any]:
    """Two steps in one of several processes: bytes that it holds after them, and bytes that it sent in the second."""
    model = make_model(size)
    if freeze:
        model.encoders["modality0"].requires_grad_(False)
    alone, precision = Objective(model, Sum()), Precision("float32", torch.device("cpu"))
    objective = shard(alone, precision, unit_bytes) if unit_bytes else parallel(alone, strategy, precision)
    optimizer = make_optimizer(parameter_groups(model))
    for step in range(2):
        with Sent() as sent:
            for _ in train_epoch(
                model, [make_batch(size, step)], weigh=Sum(), optimizer=optimizer, objective=objective
            ):
                pass
    tensors = [t for p in model.parameters() for t in (p, p.grad, *optimizer.state[p].values()) if t is not None]
    return {"held": stored(tensors), "sent": dict(sent.bytes)}


def stored(tensors: Iterable[Any]) -> int:
    """Bytes of the memory that some tensors of this process share: a view counts once."""
    local = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    return sum({s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in local)}.values())


class Sent(TorchDispatchMode):
    """Counts the bytes of whole tensors that collectives bring together, by kind.

    What is not in float32 is told: the labels and signals of all, and which parameters DDP found in use.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d" and (kind := KINDS.get(func.overloadpacket.__name__)):
            tensors = [args[0]] if isinstance(args[0], torch.Tensor) else list(args[0])
            if kind == "reduced and scattered":
                tensors = [args[1]]
            for tensor in tensors:
                name = kind if tensor.dtype == torch.float32 else "told"
                self.bytes[name] += tensor.numel() * tensor.element_size()
        return func(*args, **(kwargs or {}))


def in_processes(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What a function returned in each of some forked processes that have met; as JSON."""
    hear, tell = os.pipe()
    children = {}
    for rank in range(world):
        read, write = os.pipe()
        if not (child := os.fork()):
            os.close(tell)
            _be(rank, world, hear, write, lambda: function(*args))
        os.close(write)
        children[child] = read
    # Not before the forks: a process forked while the thread of the store answers one has locks of the C library that
    # nobody gives back.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(tell, f"{store.port:5}".encode() * world)
    os.close(hear)
    os.close(tell)
    _wait(list(children))
    results = []
    for read in children.values():
        with os.fdopen(read) as pipe:
            results.append(json.loads(pipe.read()))
    return results


def _be(rank: int, world: int, hear: int, write: int, work: Callable[[], Any]) -> None:
    code = 1
    try:
        port = int(os.read(hear, 5))
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        where |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}  # the parent holds the store
        os.environ.update({name: str(value) for name, value in where.items()})
        faulthandler.dump_traceback_later(LONGEST - 10)  # says where it waits before it is ended
        connect(LONGEST)
        with os.fdopen(write, "w") as pipe:
            json.dump(work(), pipe)
        disconnect()
        code = 0
    finally:
        os._exit(code)


def _wait(children: list[int]) -> None:
    """Until all have ended; if one fails, or it takes too long, none is left."""
    end, left, codes = time.monotonic() + LONGEST, set(children), []
    while left and time.monotonic() < end and not any(codes):
        for child in list(left):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                left.discard(child)
                codes.append(status)
        time.sleep(0.01)
    for child in left:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if left or any(codes):
        raise RuntimeError(f"Processes of a benchmark failed, or took more than {LONGEST} seconds: {codes}")


def _parameters(size: Size) -> int:
    return _count(make_model(size))


def _encoder_bytes(size: Size) -> int:
    return 4 * _count(make_model(size).encoders["modality0"])


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _mib(name: str, ours: float, other: float, target: float) -> Row:
    return Row(name, ours / 2**20, other / 2**20, ours / other, target, "MiB")


def _kib(name: str, ours: float, other: float, target: float) -> Row:
    return Row(name, ours / 2**10, other / 2**10, ours / other, target, "KiB")
