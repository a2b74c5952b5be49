"""Copies of tensors in the memory of the host, which a thread may write while training goes on."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Name = TypeVar("Name", bound=Hashable)


class HostCopy:
    """Copies into buffers that are used again: the time of one pass over the memory, with nothing allocated.

    The buffers stay between the copies. Those for a GPU are pinned, so that all copies are under way at once.
    """

    def __init__(self) -> None:
        self._buffers: dict[Hashable, Tensor] = {}

    @torch.no_grad()
    def __call__(self, tensors: Mapping[Name, Tensor]) -> dict[Name, Tensor]:
        """The same tensors as they are now; the copies of the call before are overwritten."""
        copies = {name: self._buffer(name, tensor) for name, tensor in tensors.items()}
        self._buffers = dict(copies.items())
        for name, tensor in tensors.items():
            copies[name].copy_(tensor, non_blocking=tensor.is_cuda)  # others are not waited for below
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.synchronize(device)
        return copies

    def _buffer(self, name: Hashable, tensor: Tensor) -> Tensor:
        known = self._buffers.get(name)
        if known is not None and known.shape == tensor.shape and known.dtype == tensor.dtype:
            return known
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


@torch.no_grad()
def checksums(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """A few numbers of each tensor that change with any of its values, at the speed of its memory."""
    names: dict[torch.device, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(tensor.device, []).append(name)
    found: dict[str, tuple[int, ...]] = {}
    for here in names.values():
        numbers = torch.stack([_checksum(tensors[name]) for name in here]).tolist()  # one synchronisation
        found |= {name: tuple(row) for name, row in zip(here, numbers, strict=True)}
    return found


def _checksum(tensor: Tensor) -> Tensor:
    """Sums of the words, plain and weighted by places, of the bytes behind them, and of the words' leading halves.

    The sum of the words alone would not tell when two numbers of a word each change their signs (that adds 2 to the
    power of 64), or when numbers change places: these go to another row or another column of a table of the words.
    """
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.storage_offset() * flat.element_size() % 8:  # a piece of a larger one, not aligned for words
        flat = flat.clone()
    letters = flat.view(torch.uint8)
    words = letters[: letters.numel() // 8 * 8].view(torch.int64)
    bytes_behind = letters[8 * words.numel() :]
    halves = words.view(torch.int32)[1::2] if flat.element_size() == 8 else bytes_behind
    columns = 16  # sums along both axes of so narrow a table are each as fast as the memory
    table = words[: len(words) // columns * columns].view(-1, columns)
    rows, tail = table.sum(dim=1), words[table.numel() :]
    sums = [rows.sum() + tail.sum(), *map(_by_place, (rows, table.sum(dim=0), tail))]
    return torch.stack([*sums, bytes_behind.sum(dtype=torch.int64), halves.sum(dtype=torch.int64)])


def _by_place(words: Tensor) -> Tensor:
    """The sum of the words, each times its number."""
    return (words * torch.arange(1, len(words) + 1, device=words.device)).sum()
