"""What the processes of a run tell each other while they write or read a checkpoint."""

import json
from typing import Any

from mmfuse.distributed import agree, gather_texts, rank, world


class Processes:
    """Rank, number of processes, and a few words between them; a run of one process talks to itself.

    Args:
        group: in which they talk; None: that of the training.
    """

    def __init__(self, group: Any = None) -> None:
        self.rank, self.world, self._group = rank(), world(), group

    def add(self, number: int) -> int:
        """The sum of one number of each process."""
        return int(agree([number], self._group)[0])

    def first(self, numbers: list[int]) -> list[int]:
        """The numbers of the first process."""
        return json.loads(gather_texts(json.dumps(numbers), self._group)[0])

    def messages(self, text: str | None) -> dict[int, str]:
        """What processes say, by rank; those with None say nothing."""
        texts = gather_texts("" if text is None else text or "?", self._group)
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
