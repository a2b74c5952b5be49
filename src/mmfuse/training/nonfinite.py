"""A loss or gradient that is NaN or infinite: it never changes a weight, and the error says where it came from."""

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from mmfuse._checks import require_choice, require_not_negative
from mmfuse._files import device_of
from mmfuse.contracts import Batch
from mmfuse.data.loading.report import shown
from mmfuse.distributed import world
from mmfuse.model import MultimodalModel
from mmfuse.training.blame import names_of_samples, nonfinite_given, samples_at_fault, undisturbed
from mmfuse.training.precision import Precision
from mmfuse.training.sharding import is_sharded


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite. No weight has been changed by it.

    ``step`` is the number of the optimizer step, ``tasks`` are those whose loss is not finite (none if only a gradient
    is not), and ``samples`` names what alone makes it so, as far as that could be found.
    """

    def __init__(self, message: str, *, step: int = 0, tasks: Sequence[str] = (), samples: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.step, self.tasks, self.samples = step, list(tasks), list(samples)


class NonFinite:
    """What becomes of a step that is not finite: it is never made, and is an error or counted.

    A gradient that overflows while the scaler of float16 looks for its scale is no fault: the scaler leaves out that
    step by itself.

    Args:
        policy: "raise": :class:`NonFiniteError`; "skip": a warning, and the run goes on with the next step.
        limit: most steps that are skipped in a run; one more is an error.
    """

    def __init__(self, policy: str = "raise", limit: int = 10) -> None:
        require_choice("fit", "on_nonfinite", policy, ("raise", "skip"))
        require_not_negative("fit", max_skips=limit)
        self.policy, self.limit = policy, limit
        self.skipped = 0  # steps, in the whole run
        self.skips = False  # whether the last step was one of them
        self.losses: dict[str, float] = {}  # of the last step, over all processes, as they were read
        self.norm = math.inf  # of its gradients
        self.moved = True  # whether it changed the weights: not if it is skipped, by this or by the scaler
        self._batches: Any = None
        self._first_step = self._accumulate = 1
        self._of_norms: list[Tensor] = []  # the statistics of batch norm
        self._weigh: nn.Module | None = None
        self._kept: list[Tensor] = []  # as they were after the last good step

    def begin(
        self,
        model: nn.Module,
        batches: Any,
        *,
        weigh: nn.Module | None = None,
        accumulate: int = 1,
        first_step: int = 1,
    ) -> None:
        """A pass over some batches begins: so its samples are called, and so the statistics of batch norm are.

        Args:
            model: that is trained.
            weigh: whose buffers are kept too: a weighting may hold running numbers.
            batches: a ``Loader``, a ``Meter`` of one, or anything else.
            accumulate: batches in a step.
            first_step: number of the step that the first batch is in.
        """
        self._batches, self._accumulate, self._first_step = batches, accumulate, first_step
        norms = [part for part in model.modules() if isinstance(part, _BatchNorm)]
        # Those of one type stand together: they are copied in one kernel.
        self._of_norms = sorted((x for norm in norms for x in norm.buffers()), key=lambda x: str(x.dtype))
        self._weigh = weigh
        self._kept = [buffer.clone() for buffer in self._statistics()]

    def may_step(
        self, losses: Mapping[str, Tensor], norm: Tensor, precision: Precision, *, edited: bool = False
    ) -> bool:
        """Whether all is finite: on every process alike, if losses and norm are over all. Waits for the device.

        Args:
            losses: by task.
            norm: of the gradients.
            precision: of the step.
            edited: the gradients were finite before a rule edited them: so the scaler is not at fault.
        """
        *numbers, self.norm = torch.stack([*losses.values(), norm]).tolist()
        self.losses = dict(zip(losses, numbers, strict=True))
        losses_are, norm_is = all(map(math.isfinite, numbers)), math.isfinite(self.norm)
        self.skips = not (losses_are and (norm_is or (not edited and precision.searches())))
        self.moved = losses_are and norm_is
        if self._kept and not self.skips:
            _copy(self._statistics(), self._kept)
        return not self.skips

    def meet(
        self,
        step: int,
        model: MultimodalModel,
        window: Sequence[Batch],
        losses: Mapping[str, Tensor],
        precision: Precision,
    ) -> None:
        """Raise for a step that may not be made, or tell that it is skipped.

        Raises:
            NonFiniteError: the policy is "raise", or more than ``limit`` steps were skipped.
        """
        self.undo()
        names = names_of_samples(self._batches, (step - self._first_step) * self._accumulate, window)
        error = explain_nonfinite(step, model, window, losses, precision, names)
        if self.policy == "raise":
            raise error
        self.skipped += 1
        if self.skipped > self.limit:
            raise NonFiniteError(
                f"{self.skipped} steps were not finite, more than max_skips={self.limit} allows. The last: {error}",
                step=step,
                tasks=error.tasks,
                samples=error.samples,
            )
        precision.scaler.update()
        warnings.warn(f"{error} The step is skipped: {self.skipped} of at most {self.limit}.", stacklevel=4)

    def undo(self) -> None:
        """Put back the statistics of batch norm and of the weighting as they were after the last good step."""
        if self._kept:
            _copy(self._kept, self._statistics())

    def _statistics(self) -> list[Tensor]:
        """Of batch norm, which changes them in place, and of the weighting, which may put others there."""
        return [*self._of_norms, *(() if self._weigh is None else self._weigh.buffers())]

    def state_dict(self) -> dict[str, int]:
        """How many steps were skipped."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self.skipped = int(state["skipped"])


def explain_nonfinite(
    step: int,
    model: MultimodalModel,
    window: Sequence[Batch],
    losses: Mapping[str, Tensor],
    precision: Precision,
    names: Sequence[Sequence[str]] | None = None,
) -> NonFiniteError:
    """The error: with the step, the tasks, the first module whose output is not finite, and the samples that do it.

    Args:
        step: its number.
        model: as it was in the step.
        window: the batches of the step.
        losses: of the step, by task.
        precision: of the step.
        names: what the samples of each batch are called.
    """
    names = names or names_of_samples(None, 0, window)
    tasks = [name for name, loss in losses.items() if not loss.isfinite()]
    what = f"the loss of {' and '.join(map(repr, tasks))}" if tasks else "a gradient (every loss is finite)"
    where, samples, told = _find(model, window, precision, names, gradient=not tasks)
    if where is None and world() > 1:
        where = "nothing of this process: another one names it, or it was chance"
    elif where is None:
        where = "no output when run again: a loss too large to be counted, or chance, such as dropout"
    return NonFiniteError(
        f"Step {step}: {what} is not finite. The first that is not finite is {where}. {told} Expected finite numbers. "
        "Weights and optimizer are as before this step, and the last checkpoint is good. "
        "Mend the data if an input or a label is named; else lower the learning rate, or use precision='float32'.",
        step=step,
        tasks=tasks,
        samples=samples,
    )


def _find(
    model: MultimodalModel,
    window: Sequence[Batch],
    precision: Precision,
    names: Sequence[Sequence[str]],
    *,
    gradient: bool,
) -> tuple[str | None, list[str], str]:
    """The first place that is not finite, the samples that are at fault, and a sentence on them."""
    batches = [batch.to(device_of(model)) for batch in window]
    given = [nonfinite_given(batch) for batch in batches]
    if place := next((place for found in given for place in found), None):
        samples = [named[row] for named, found in zip(names, given, strict=True) for row in found.get(place, ())]
        return place, samples, f"It is that of {shown(samples, len(samples))}."
    if is_sharded(model):  # runs on all processes at once, of which others may have found their place above
        return None, [], "With strategy='fsdp' no module can be named."
    with undisturbed(model), precision.autocast():
        found = (first_nonfinite(model, batch) for batch in batches)
        where = next((place for place in found if place), None)
    if where is None and gradient:
        bad = next((n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()), None)
        where = bad and f"the gradient of {bad}"
    alone = [samples_at_fault(model, batch, precision, gradient=gradient) for batch in batches]
    samples = [named[row] for named, rows in zip(names, alone, strict=True) for row in rows]
    if not samples:
        return where, [], "No sample alone makes it so."
    if 1 < len(samples) == sum(map(len, names)):
        return where, [], "Every sample alone makes it so."
    return where, samples, f"Alone, only {shown(samples, len(samples))} makes it so."


def first_nonfinite(model: MultimodalModel, batch: Batch) -> str | None:
    """The first module whose output is not finite; None if all are."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            tensors = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()]
            if not found and not all(x.isfinite().all() for x in tensors):
                found.append(f"the output of {name}")

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _copy(tensors: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    for _, pairs in groupby(zip(tensors, into, strict=True), key=lambda pair: pair[0].dtype):
        given, places = zip(*pairs, strict=True)
        torch._foreach_copy_(list(places), list(given))
