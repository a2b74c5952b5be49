"""Which of several processes this is, for what is cut among them."""

import os

import torch


def rank_and_world() -> tuple[int, int]:
    """Number of this process, from 0, and how many there are.

    Those of ``torch.distributed`` once it is initialised; before that, what ``torchrun`` has put into the
    environment; ``(0, 1)`` for a process on its own. Variables that another launcher has left behind are not read.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return 0, 1
