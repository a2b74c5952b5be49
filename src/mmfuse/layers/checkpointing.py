"""Activations that are computed again in the backward pass instead of kept: less memory, a forward pass more time."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def run(module: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """What a module makes of some inputs, with or without keeping its activations (Chen et al., 2016).

    https://arxiv.org/abs/1604.06174. Gradients are the same, dropout draws the same numbers again, and statistics of
    BatchNorm count each batch once. Inside ``torch.compile``, a module with BatchNorm keeps its activations.
    """
    if not (checkpointing and torch.is_grad_enabled()):
        return module(*inputs)
    statistics = [
        norm.get_buffer(name)
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training and norm.track_running_stats
        for name in STATISTICS
    ]
    if not statistics:
        return checkpoint(module, *inputs, use_reentrant=False)
    if torch.compiler.is_compiling():
        return module(*inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _put_back(statistics)

    return checkpoint(module, *inputs, use_reentrant=False, context_fn=contexts)


def run_in_turn(stages: Iterable[nn.Module], values: Any, *, checkpointing: bool) -> Any:
    """Values through some stages, each of which may be a row of blocks: then each block is run by itself."""
    for stage in stages:
        parts = list(stage.children())
        is_row = isinstance(stage, nn.Sequential) and all(any(part.children()) for part in parts)
        for part in parts if is_row else [stage]:
            values = run(part, values, checkpointing=checkpointing)
    return values


@contextmanager
def _put_back(statistics: list[Tensor]) -> Iterator[None]:
    """What the second forward pass counts is forgotten."""
    before = [values.clone() for values in statistics]
    try:
        yield
    finally:
        for values, old in zip(statistics, before, strict=True):
            values.data.copy_(old)  # .data: the backward pass has noted the version of this buffer, but reads nothing
