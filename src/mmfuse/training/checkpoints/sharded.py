"""Tensors that several processes share out among them (DTensor of FSDP2): which piece is where."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmfuse.distributed import is_shared_out

Box = tuple[tuple[int, ...], tuple[int, ...]]  # where a piece begins along each axis, and how long it is


def box_of(tensor: Any) -> Box:
    """Where in the whole tensor this process's piece stands.

    Raises:
        ValueError: the tensor is shared out in another way than in pieces along an axis, or copies.
    """
    begin, length = [0] * tensor.dim(), list(tensor.shape)
    if is_shared_out(tensor):
        mesh = tensor.device_mesh
        for axis, placement in enumerate(tensor.placements):
            if type(placement).__name__ == "Replicate":
                continue
            if type(placement).__name__ != "Shard":
                raise ValueError(
                    f"A checkpoint cannot hold a tensor that is placed as {placement!r}. Expected Shard or Replicate, "
                    "as FSDP2 and HSDP place their parameters. Share the model out with fully_shard alone."
                )
            dim, size = placement.dim, mesh.size(axis)
            step = -(-length[dim] // size)  # as torch.chunk cuts: the last pieces may be short or empty
            first = min(length[dim], step * mesh.get_local_rank(axis))
            begin[dim], length[dim] = begin[dim] + first, min(step, length[dim] - first)
    return tuple(begin), tuple(length)


def writes(tensor: Any, rank: int) -> bool:
    """Whether this process is the one that writes its piece: of equal copies, the first."""
    if not is_shared_out(tensor):
        return rank == 0
    mesh = tensor.device_mesh
    copies = [i for i, placement in enumerate(tensor.placements) if type(placement).__name__ == "Replicate"]
    return all(mesh.get_local_rank(axis) == 0 for axis in copies) and math.prod(box_of(tensor)[1]) > 0


def like(template: Any, local: Tensor) -> Tensor:
    """A piece as the tensor that ``template`` is: the same mesh and placement, or plain."""
    if not is_shared_out(template):
        return local
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local.to(template.device),
        template.device_mesh,
        template.placements,
        run_check=False,
        shape=template.shape,
        stride=template.stride(),
    )


def gather_box(box: Box, dtype: torch.dtype, pieces: Sequence[tuple[Box, Callable[[Any], Tensor]]]) -> Tensor | None:
    """One box of a tensor, from the pieces that it was cut into; None if some of it is in no piece.

    Args:
        box: what is wanted.
        dtype: of the tensor.
        pieces: box of each piece, and what reads some of it, by slices.
    """
    begin, length = box
    out = torch.empty(length, dtype=dtype)
    filled = 0
    for (start, size), read in pieces:
        low = [max(a, b) for a, b in zip(begin, start, strict=True)]
        high = [min(a + m, b + n) for a, m, b, n in zip(begin, length, start, size, strict=True)]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            continue
        there = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        here = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, begin, strict=True))
        out[here] = read(there)
        filled += math.prod(b - a for a, b in zip(low, high, strict=True))
    return out if filled == out.numel() else None
