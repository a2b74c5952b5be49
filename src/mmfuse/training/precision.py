"""The numbers that a model is trained in: float32, or mixed with bfloat16 or float16; TF32; the same every time."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch

from mmfuse._checks import require_choice

PRECISIONS = ("auto", "float32", "bf16", "fp16")
WORKSPACES = (":4096:8", ":16:8")  # with which cuBLAS gives the same sums every time


class Precision:
    """Autocast for the forward pass, and the loss scaler that float16 needs.

    ``"auto"`` is bf16 on a GPU that has it (Ampere and later) and float32 elsewhere: older GPUs emulate bf16, and most
    CPUs are slower with it than with float32.

    Args:
        name: "auto", "float32", "bf16" or "fp16". Parameters and optimizer stay in float32 in all of them.
        device: where the model is.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        require_choice("Precision", "precision", name, PRECISIONS)
        if name == "fp16" and device.type == "cpu":
            raise ValueError("precision='fp16' does not train on a CPU. Expected float32 or bf16 there. Use 'auto'.")
        if name == "auto":
            name = (
                "bf16"
                if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
                else "float32"
            )
        self.name = name
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16" and device.type == "cuda")

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass and its loss."""
        if self.name == "float32" and not torch.is_autocast_enabled(self.device.type):
            return nullcontext()
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.name != "float32")

    def searches(self) -> bool:
        """Whether an infinite gradient may come from the scale of the loss, and be cured by the next, smaller scale.

        A scale below 1 makes gradients smaller than they are: what is infinite then is infinite by itself. The scale
        begins at 65536 and is halved after each such step, so a real fault is told after 17 steps. Asks the device.
        """
        return self.scaler.is_enabled() and self.scaler.get_scale() >= 1.0


@contextmanager
def arithmetic(device: torch.device, *, tf32: bool | None = None, deterministic: bool = False) -> Iterator[None]:
    """How torch calculates inside of this context; after it all is as before.

    Args:
        device: where the model is.
        tf32: matrix products and convolutions in float32 round their factors to TF32, on GPUs that have it: several
            times faster, with 10 bits instead of 23. None: as torch is set.
        deterministic: only operations that give the same bits every time; one that cannot raises RuntimeError.

    Raises:
        ValueError: deterministic on a GPU without the workspace of cuBLAS that makes its sums repeat.
    """
    if deterministic and device.type == "cuda" and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in WORKSPACES:
        raise ValueError(
            "deterministic=True on a GPU got no workspace for cuBLAS, without which its sums differ from run to run. "
            "Expected the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8 from the start of Python. "
            "Run: CUBLAS_WORKSPACE_CONFIG=:4096:8 python train.py"
        )
    with ExitStack() as stack:
        if tf32 is not None:
            stack.enter_context(_rounding_to_tf32(tf32))
        if deterministic:
            stack.enter_context(_repeating())
        yield


@contextmanager
def _rounding_to_tf32(allowed: bool) -> Iterator[None]:
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


@contextmanager
def _repeating() -> Iterator[None]:
    strict, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    search = torch.backends.cudnn.benchmark  # for the fastest kernel, which may be another one in every run
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        torch.backends.cudnn.benchmark = search
