"""Which of several processes this is, for what is cut among them."""

from mmfuse.distributed import rank, world


def rank_and_world() -> tuple[int, int]:
    """Number of this process, from 0, and how many the run has: as ``torchrun`` started them, else ``(0, 1)``."""
    return rank(), world()
