"""BatchNorm beside absent samples: its statistics are those of the present ones."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfuse.layers.checkpointing import STATISTICS


def run_present(
    owner: str,
    network: nn.Module,
    run: Callable[[Tensor], Any],
    values: Shaped[Tensor, "batch ..."],
    present: Bool[Tensor, " batch"],
) -> Any:
    """What ``run`` makes of the values through ``network``; what is absent leaves no trace in its statistics.

    In training, a copy of a present row stands in the place of each absent one. A batch without any present row leaves
    the statistics as they were.
    """
    # Asked each time: SyncBatchNorm may have been put in.
    norms: list[Any] = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.training]
    if not norms:
        return run(values)
    before = [(norm, name, getattr(norm, name).clone()) for norm in norms for name in STATISTICS]
    try:
        result = run(with_copies_of_present(values, present))
    except ValueError as error:
        raise ValueError(
            f"{owner} cannot train on a batch of shape {tuple(values.shape)}: {error}. Expected two samples in a "
            "batch, or larger ones, for the statistics of BatchNorm. Choose a batch_size that leaves no single row at "
            "the end, a larger size, freeze='all', or a network without BatchNorm."
        ) from error
    for norm, name, old in before:
        now = getattr(norm, name)
        # .data: the backward pass has noted the version of this buffer, but reads nothing from it in training.
        now.data.copy_(torch.where(present.any(), now, old))
    return result


def with_copies_of_present(
    values: Shaped[Tensor, "batch ..."], present: Bool[Tensor, " batch"]
) -> Shaped[Tensor, "batch ..."]:
    """In the place of each absent row one that is present, each in its turn; without a question to the device."""
    order = (~present).to(torch.uint8).argsort(stable=True)  # the present ones first
    turn = ((~present).cumsum(0) - 1) % present.sum().clamp_min(1)
    rows = torch.where(present, torch.arange(len(present), device=present.device), order[turn])
    return values[rows]
