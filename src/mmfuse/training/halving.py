"""A step that runs out of memory is done again in smaller parts: the same step, for the rest of the run."""

import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mmfuse._checks import require_choice
from mmfuse.contracts import Batch
from mmfuse.distributed import world
from mmfuse.training.memory import is_out_of_memory
from mmfuse.training.objective import Totals, samples_of
from mmfuse.training.seeds import random_states, restore_random_states

POLICIES = ("raise", "halve")
Result = TypeVar("Result")


class Halving:
    """What becomes of a step that runs out of memory in its forward or backward pass.

    The losses of a step are divided by what the whole step holds. So batches that are cut give the gradient that they
    give whole, and a run goes on as one that began with smaller batches and a larger ``accumulate``. (Batch norm takes
    its statistics, and a loss that compares samples its others, from the smaller batches, here as there; batch norm
    cannot be trained on single samples.)

    Args:
        policy: "raise": an error. "halve": the step is done again with each batch cut in halves, and again, down to
            single samples; all later batches are cut as much.

    Raises:
        ValueError: "halve" with several processes: those that had memory enough would wait for the others.
    """

    def __init__(self, policy: str = "raise") -> None:
        require_choice("fit", "on_out_of_memory", policy, POLICIES)
        if policy == "halve" and world() > 1:
            raise ValueError(
                f"fit got on_out_of_memory='halve' in a run of {world()} processes. Expected 'raise' there: a process "
                "cannot do a step again that the others have finished. Use a smaller batch_size with a larger "
                "accumulate, which is the same step in smaller parts."
            )
        self.policy = policy
        self.parts = 1  # that each batch is cut in, if it has as many samples

    def cut(self, window: Sequence[Batch]) -> Sequence[Batch]:
        """The batches of a step in as many parts as are needed by now."""
        return window if self.parts == 1 else [part for batch in window for part in _cut(batch, self.parts)]

    def attempt(
        self,
        step: int,
        backward: Callable[[Sequence[Batch], Totals], Result],
        window: Sequence[Batch],
        totals: Totals,
        undo: Callable[[], None],
    ) -> Result:
        """The result of ``backward`` of the batches of a step, cut as far as memory asks for.

        Args:
            step: its number.
            backward: forward and backward passes of batches.
            window: the batches.
            totals: what they hold.
            undo: takes back what an attempt changed, but for the random states, which are put back here.
        """
        before, states = self.parts, random_states() if self.policy == "halve" else {}
        while True:
            pieces = self.cut(window)
            largest = max(map(samples_of, pieces))
            try:
                found = backward(pieces, totals if pieces is window else replace(totals, pieces=len(pieces)))
                break
            except (RuntimeError, MemoryError) as error:
                if self.policy == "raise" or largest <= 1 or not is_out_of_memory(error):
                    raise
                traceback.clear_frames(error.__traceback__)  # they hold the activations
            undo()
            restore_random_states(states)
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            self.parts *= 2
        if self.parts > before:
            self._warn(step, largest)
        return found

    def _warn(self, step: int, largest: int) -> None:
        warnings.warn(
            f"Step {step} ran out of memory. It was done again in smaller parts, and so is what comes: each batch is "
            f"cut in {self.parts}, to at most {largest} samples here, and the steps stay the same. A smaller "
            "batch_size with a larger accumulate spares the attempt.",
            stacklevel=5,  # who called fit
        )


def _cut(batch: Batch, parts: int) -> list[Batch]:
    """A batch in so many parts, which are views of it, or in fewer that are not larger."""
    size = samples_of(batch)
    rows = max(1, -(-size // parts))
    return [_rows(batch, first, first + rows) for first in range(0, size, rows)] or [batch]


def _rows(batch: Batch, first: int, end: int) -> Batch:
    return pytree.tree_map_only(Tensor, lambda x: x[first:end], batch)
