"""Stops a run that has met NaN or infinity, before it spoils a weight, and says where it came from."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmfuse._files import device_of
from mmfuse.contracts import Batch
from mmfuse.model import MultimodalModel
from mmfuse.training.precision import Precision


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite. No weight has been changed by it."""


def explain_nonfinite(
    step: int, model: MultimodalModel, window: Sequence[Batch], losses: dict[str, Tensor], precision: Precision
) -> str:
    """The message of the error: the step, the tasks, and the first module whose output is not finite."""
    tasks = [name for name, loss in losses.items() if not loss.isfinite()]
    what = f"the loss of {' and '.join(map(repr, tasks))}" if tasks else "a gradient (every loss is finite)"
    with precision.autocast():
        found = (first_nonfinite(model, batch.to(device_of(model))) for batch in window)
        where = next((place for place in found if place), None)
    if where is None and not tasks:
        bad = next((n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()), None)
        where = bad and f"the gradient of {bad}"
    if where is None:
        where = "no output when run again: a loss too large to be counted, or chance, such as dropout"
    return (
        f"Step {step}: {what} is not finite. The first that is not finite is {where}. Expected finite numbers. "
        "Weights and optimizer are as before this step, and the last checkpoint is good. "
        "Mend the data if an input or a label is named; else lower the learning rate, or use precision='float32'."
    )


def first_nonfinite(model: MultimodalModel, batch: Batch) -> str | None:
    """The first input, label or module whose real values are not finite, in this order; None if all are."""
    given = {f"the input {name!r}": x.zeroed().values for name, x in batch.inputs.items()}
    given |= {f"the label of {name!r}": x.values[x.known] for name, x in batch.targets.items()}
    if bad := next((place for place, values in given.items() if not values.isfinite().all()), None):
        return bad
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
