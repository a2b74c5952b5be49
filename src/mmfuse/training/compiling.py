"""``torch.compile`` for a model whose batches have unequal lengths."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mmfuse.contracts import Batch, Output
from mmfuse.model import MultimodalModel


def compiled(model: MultimodalModel, compile: bool | Mapping[str, Any] = True) -> Callable[[Batch], Output]:
    """The forward pass of a model, compiled; the model itself stays as it is, and so do the names of its weights.

    One graph serves all lengths and batch sizes, but for axes of length 1, for which torch makes another.
    ``SkipAbsent`` runs on all rows in it.

    Args:
        model: shares its weights with what is returned.
        compile: True, False (the model itself), or options of ``torch.compile``: ``{"mode": "reduce-overhead"}``.
    """
    if compile is False:
        return model
    if compile is not True and not isinstance(compile, Mapping):
        raise TypeError(
            f"compiled got compile={compile!r}. Expected True, False, or options of torch.compile by name. "
            "Try compile={'mode': 'max-autotune'}."
        )
    options = {"dynamic": True} | ({} if compile is True else dict(compile))
    return torch.compile(model.__call__, **options)
