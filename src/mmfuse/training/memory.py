"""Memory that runs out in a step: an error that says what was in it and what to change."""

import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmfuse.contracts import Batch, Input
from mmfuse.distributed import local_part
from mmfuse.model import MultimodalModel
from mmfuse.training.objective import samples_of
from mmfuse.training.precision import Precision

_SIGNS = (  # in the text of errors that have no class of their own
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_OFTEN_ABSENT = 0.3  # share of samples from which SkipAbsent is worth it


@contextmanager
def explaining_out_of_memory(
    step: int,
    model: MultimodalModel,
    optimizer: Optimizer,
    window: Callable[[], Sequence[Batch]],
    precision: Precision,
) -> Iterator[None]:
    """Around what a step computes: if memory runs out there, the error names batch and sizes, and what to change.

    Args:
        step: its number.
        model: that is trained.
        optimizer: of its parameters.
        window: gives the batches of the step, as they are cut when memory runs out.
        precision: of the step.

    Raises:
        torch.OutOfMemoryError: on a CPU too, where torch raises a bare RuntimeError.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = explain_out_of_memory(error, step, model, optimizer, window(), precision)
        # The frames of the traceback would keep the activations of the step alive for who catches the error.
        traceback.clear_frames(error.__traceback__)
        raise torch.OutOfMemoryError(message) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in _SIGNS)


def explain_out_of_memory(
    error: BaseException,
    step: int,
    model: MultimodalModel,
    optimizer: Optimizer,
    window: Sequence[Batch],
    precision: Precision,
) -> str:
    """The message: what was asked for, the batch, what model and optimizer take, and what to change, best first."""
    sizes = list(map(samples_of, window))
    longest = ", ".join(
        f"{name!r} {_longest([b.inputs[name] for b in window if name in b.inputs])}" for name in _names(window)
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parameters, gradients = _bytes(model.parameters()), _bytes(trained)
    held = _bytes(tensor for state in optimizer.state.values() for tensor in state.values())
    first = str(error).strip().split("\n")[0][:200].rstrip(".")
    return (
        f"Step {step} ran out of memory: {first or type(error).__name__}. A batch of {max(sizes)} samples in "
        f"{precision.name}, the longest of each modality: {longest}. The parameters take {_shown(parameters)}, "
        f"their gradients {_shown(gradients)}, the optimizer {_shown(held or 2 * gradients)}; the rest is activations."
        f" Expected a step that fits. {_advice(model, window, precision, max(sizes))}"
    )


def _advice(model: MultimodalModel, window: Sequence[Batch], precision: Precision, size: int) -> str:
    """What would help here, what costs least first."""
    ways = []
    if precision.name == "float32" and precision.device.type == "cuda":
        ways.append("precision='bf16'")
    if size > 1:
        ways.append(
            f"batch_size={size // 2} with accumulate={2 * len(window)}, which is the same step in smaller parts "
            "(on_out_of_memory='halve' does that by itself, with one process)"
        )
    encoders = {name: _inside(encoder) for name, encoder in model.encoders.items()}
    if recompute := [name for name, encoder in encoders.items() if _could_checkpoint(encoder)]:
        ways.append(
            f"checkpointing=True in the encoders of {recompute}, which recompute what they need in the backward pass"
        )
    if absent := [
        name for name in _names(window) if _absent(window, name) >= _OFTEN_ABSENT and not _skips(model, name)
    ]:
        ways.append(f"SkipAbsent(...) round the encoders of {absent}, which many samples lack")
    if cut := [
        name for name in _names(window) if any(b.inputs[name].mask is not None for b in window if name in b.inputs)
    ]:
        ways.append(f"a smaller limit (max_length, max_seconds or max_steps) of what is read of {cut}")
    ways.append("freeze='all' for an encoder that need not learn, or a smaller model")
    return "Try, one after another: " + "; ".join(ways) + "."


def _longest(inputs: Sequence[Input]) -> str:
    """The size of the largest sample of a modality: its real steps, if it has any, and its other axes."""
    shape = [max(sizes) for sizes in zip(*(x.values.shape[1:] for x in inputs), strict=True)]
    # Read on the CPU: there may be no memory left for it on the GPU.
    steps = [int(x.mask.cpu().sum(dim=1).max()) for x in inputs if x.mask is not None]
    axes = [f"{max(steps)} steps" if steps else shape[0] if shape else 1, *shape[1:]]
    return " x ".join(map(str, axes))


def _names(window: Sequence[Batch]) -> list[str]:
    return list(dict.fromkeys(name for batch in window for name in batch.inputs))


def _absent(window: Sequence[Batch], name: str) -> float:
    """The share of samples that lack a modality."""
    present = torch.cat([batch.inputs[name].present.cpu() for batch in window if name in batch.inputs])
    return 1 - float(present.float().mean())


def _inside(encoder: Any) -> Any:
    """The encoder inside those that stand round it."""
    while (inner := getattr(encoder, "_inner", None)) is not None:
        encoder = inner
    return encoder


def _could_checkpoint(encoder: Any) -> bool:
    known = "checkpointing" in inspect.signature(type(encoder).__init__).parameters
    trains = any(parameter.requires_grad for parameter in encoder.parameters())
    names = ("checkpointing", "gradient_checkpointing")  # ours, and of transformers
    does = any(getattr(part, name, False) for part in encoder.modules() for name in names)
    return known and trains and not does


def _skips(model: MultimodalModel, name: str) -> bool:
    return any(type(part).__name__ == "SkipAbsent" for part in model.encoders[name].modules())


def _bytes(tensors: Iterable[Any]) -> int:
    """Memory of tensors; of a sharded one, that of the part which is here."""
    local = (local_part(tensor) for tensor in tensors if isinstance(tensor, Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
