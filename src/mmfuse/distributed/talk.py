"""What the processes of a run tell each other: numbers, rows and texts, over the CPU."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmfuse.distributed.connect import world


def agree(values: Sequence[float | int], group: Any = None) -> list[float]:
    """The sum of each number over all processes: one small message over gloo, without the GPU.

    Args:
        values: as many on every process.
        group: in which they talk; the first one if None.
    """
    if world() == 1:
        return [float(value) for value in values]
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total, group=group)
    return total.tolist()


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows of every process, on the CPU, in the order of the ranks; their numbers may differ.

    Args:
        rows: (row, ...), with the same dtype and the same other sizes on every process.
        group: in which they talk; the first one if None.
    """
    rows = rows.detach().cpu().contiguous()
    if world() == 1:
        return [rows]
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(world())]
    dist.all_gather(counts, torch.tensor([len(rows)]), group=group)
    most = max(int(count) for count in counts)
    room = rows.new_zeros(most, *rows.shape[1:])
    room[: len(rows)] = rows
    # As bytes: gloo does not know every dtype.
    sent = room.flatten().view(torch.uint8)
    parts = [torch.empty_like(sent) for _ in counts]
    dist.all_gather(parts, sent, group=group)
    return [part.view(rows.dtype).reshape(room.shape)[: int(count)] for part, count in zip(parts, counts, strict=True)]


def gather_texts(text: str, group: Any = None) -> list[str]:
    """The text of every process, in the order of the ranks."""
    sent = torch.tensor(list(text.encode()), dtype=torch.uint8)
    return [bytes(part.tolist()).decode() for part in gather_rows(sent, group)]


def saved_buffers(module: nn.Module) -> list[str]:
    """The names of the buffers that are in the state dict of a module: what is in none is a constant."""
    saved = module.state_dict()
    return [name for name, _ in module.named_buffers() if name in saved]


def share_buffers(module: nn.Module, names: Collection[str] | None = None) -> None:
    """Give all processes the buffers of rank 0, such as the statistics of BatchNorm.

    Args:
        module: the same on every process.
        names: which of them; :func:`saved_buffers` if None.
    """
    if world() == 1:
        return
    names = saved_buffers(module) if names is None else names
    for name, buffer in module.named_buffers():
        if name in names:
            share_tensor(buffer)


@torch.no_grad()
def share_tensor(tensor: Tensor) -> None:
    """Give all processes the values that a tensor has on rank 0, in place, whatever its type and layout in memory."""
    own = tensor.detach()[tuple(slice(None if step else 1) for step in tensor.stride())]  # what expand() repeats: once
    sent = own.contiguous()
    if sent.numel():  # as bytes: gloo does not know every dtype
        dist.broadcast(sent.view(-1).view(torch.uint8), src=0)
    if sent.data_ptr() != own.data_ptr():
        own.copy_(sent)
