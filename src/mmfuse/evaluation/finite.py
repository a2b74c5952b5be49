"""Answers and losses that are not finite are an error, which names their samples."""

import bisect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mmfuse.data.loading.loader import Loader
from mmfuse.data.loading.report import shown
from mmfuse.layers.masking import wide


def finite_answers(caller: str, name: str, task: Any, prediction: Tensor, places: Callable[[int], str]) -> np.ndarray:
    """What a task answers, decoded; an answer that is not finite is an error, not the first class.

    Args:
        caller: for messages.
        name: of the task.
        task: with ``decode``.
        prediction: of some samples.
        places: where each of them stands, by its number among them.
    """
    decoded = task.decode(wide(prediction)).cpu()
    require_finite(caller, f"answers of the task {name!r}", decoded, places)
    return decoded.numpy()


def require_finite(caller: str, what: str, numbers: Tensor, places: Callable[[int], str]) -> None:
    """Raise ValueError, with the samples, unless all numbers of a tensor (sample, ...) are finite."""
    bad = (~numbers.reshape(len(numbers), -1).isfinite().all(dim=1)).nonzero().flatten().tolist()
    if not bad:
        return
    every = len(bad) == len(numbers) > 1
    told = "every sample" if every else shown([places(i) for i in bad[:5]], len(bad))
    mend = "the weights, and use the last good checkpoint" if every else "the inputs and labels of what is named"
    raise ValueError(
        f"{caller} got {what} that are not finite, for {told}. Expected finite numbers. Look for NaN in {mend}."
    )


def places_of(batches: Any, sizes: Sequence[int]) -> Callable[[int], str]:
    """Where each of the samples stands that :func:`collect` gave: file and line, if a ``Loader`` read it."""
    if isinstance(batches, Loader):
        return batches.dataset.place  # every row comes once, and they are in the order of the table
    ends = list(itertools.accumulate(sizes))

    def place(sample: int) -> str:
        batch = bisect.bisect_right(ends, sample)
        return f"sample {sample - ends[batch] + sizes[batch]} of batch {batch}"

    return place
