"""What the processes of a run tell each other while they write or read a checkpoint."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor

from mmfuse.distributed import connect, rank, world

LONGEST = 1000  # bytes of a message


class Processes:
    """Rank, number of processes, and a few words between them; a run of one process talks to itself.

    It has a gloo group of its own: what a thread says in the background must not meet what the training says.
    All processes make it at the same time.
    """

    def __init__(self) -> None:
        connect()
        self.rank, self.world = rank(), world()
        self._group: Any = None
        if self.world > 1:
            self._group = torch.distributed.new_group(backend="gloo")

    def add(self, number: int) -> int:
        """The sum of one number of each process."""
        return sum(int(x) for x in self._gather(torch.tensor([number])))

    def first(self, numbers: list[int], length: int) -> list[int]:
        """Numbers of the first process, ``length`` of them at most."""
        padded = torch.tensor([len(numbers[:length]), *numbers[:length], *[0] * (length - len(numbers[:length]))])
        count, *rest = self._gather(padded)[0].tolist()
        return rest[:count]

    def messages(self, text: str | None) -> dict[int, str]:
        """What processes say, by rank; those with None say nothing."""
        said = torch.zeros(LONGEST, dtype=torch.uint8)
        if text is not None:
            letters = (text.encode() or b"?")[:LONGEST]
            said[: len(letters)] = torch.tensor(list(letters), dtype=torch.uint8)
        texts = [bytes(x.tolist()).rstrip(b"\0").decode(errors="replace") for x in self._gather(said)]
        return {rank: text for rank, text in enumerate(texts) if text}

    def share(self, error: Exception | None, what: str) -> None:
        """Raise in every process if one has met an error: its own, or that of another, which ``what`` describes.

        Raises:
            OSError: in those that have met none.
        """
        said = self.messages(None if error is None else str(error))
        if error is not None:
            raise error
        if said:
            rank, text = next(iter(said.items()))
            raise OSError(f"Process {rank} {what}: {text}")

    def _gather(self, numbers: Tensor) -> list[Tensor]:
        if self._group is None:
            return [numbers]
        gathered = [torch.empty_like(numbers) for _ in range(self.world)]
        torch.distributed.all_gather(gathered, numbers, group=self._group)
        return gathered
