"""Rows of all processes as one tensor, with gradients: for losses that compare samples with each other."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from mmfuse.distributed import rank, world


def gather(rows: Shaped[Tensor, "row ..."]) -> Shaped[Tensor, "all ..."]:
    """The rows of every process, in the order of the ranks; the same tensor where there is one.

    Gradients go back to the process that a row came from, summed over what all processes made of it. So the loss of
    the local rows against all gathered ones, as its share of the sum over all, gives what one process would with all
    rows. (Without gradients for the rows of others it would be that divided by the number of processes.)

    Args:
        rows: of this process; their number may differ, the other sizes and the dtype may not.
    """
    if world() == 1:
        return rows
    own = torch.tensor([len(rows)], device=rows.device)
    found = [torch.zeros_like(own) for _ in range(world())]
    dist.all_gather(found, own)
    counts = [int(count) for count in found]
    padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
    parts = _Gather.apply(padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _Gather(torch.autograd.Function):
    """The tensor of every process; the gradient is the sum of all processes' gradients of it."""

    @staticmethod
    def forward(_context: Any, own: Tensor) -> tuple[Tensor, ...]:
        parts = [torch.empty_like(own) for _ in range(world())]
        dist.all_gather(parts, own.contiguous())
        return tuple(parts)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        total = torch.stack(gradients)
        dist.all_reduce(total)
        return total[rank()]
