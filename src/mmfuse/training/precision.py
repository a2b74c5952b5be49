"""The numbers that a model is trained in: float32, or mixed with bfloat16 or float16."""

from contextlib import AbstractContextManager

import torch

from mmfuse._checks import require_choice

PRECISIONS = ("auto", "float32", "bf16", "fp16")


class Precision:
    """Autocast for the forward pass, and the loss scaler that float16 needs.

    ``"auto"`` is bf16 on a GPU that has it and float32 elsewhere (bf16 is slower than float32 on most CPUs).

    Args:
        name: "auto", "float32", "bf16" or "fp16". Parameters and optimizer stay in float32 in all of them.
        device: where the model is.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        require_choice("Precision", "precision", name, PRECISIONS)
        if name == "fp16" and device.type == "cpu":
            raise ValueError("Precision fp16 does not train on a CPU. Expected float32 or bf16 there. Use 'auto'.")
        if name == "auto":
            name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
        self.name = name
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16" and device.type == "cuda")

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass and its loss."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.name != "float32")
