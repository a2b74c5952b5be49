"""Stops a run that has met NaN or infinity, before it spoils a weight, and says where it came from."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmfuse._files import device_of
from mmfuse.contracts import Batch
from mmfuse.model import MultimodalModel


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite. No weight has been changed by it."""


def explain_nonfinite(step: int, model: MultimodalModel, window: Sequence[Batch], losses: dict[str, Tensor]) -> str:
    """The message of the error: the step, the tasks, and the first module whose output is not finite."""
    tasks = [name for name, loss in losses.items() if not loss.isfinite()]
    what = f"the loss of {' and '.join(map(repr, tasks))}" if tasks else "a gradient (every loss is finite)"
    where = next((found for batch in window if (found := first_nonfinite(model, batch.to(device_of(model))))), None)
    if where is None:
        bad = next((n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()), None)
        where = f"the gradient of {bad}" if bad else "nothing when run again: it depends on chance, such as dropout"
    return (
        f"Step {step}: {what} is not finite. The first that is not finite is {where}. Expected finite numbers. "
        "Weights and optimizer are as before this step, and the last checkpoint is good. "
        "Mend the data if an input is named; else lower the learning rate, or use precision='float32'."
    )


def first_nonfinite(model: MultimodalModel, batch: Batch) -> str | None:
    """The first input or module whose real values are not finite, in the order of the forward pass; None if all are."""
    for name, given in batch.inputs.items():
        if given.values.is_floating_point() and not given.zeroed().values.isfinite().all():
            return f"the input {name!r}"
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
