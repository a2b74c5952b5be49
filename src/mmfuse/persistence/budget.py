"""A limit for what a config may build, so that a hostile one does not fill the memory."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from torch.nn.modules import module as hooks

# Some constructors build a part and throw it away, or one weight twice and tie it.
NUMBERS, MODULES = 10_000_000, 10_000


@contextmanager
def at_most(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """A context in which no more is built than a file of weights can be for, and something to spare.

    Args:
        tensors: those of the file.

    Raises:
        ValueError: a module or a parameter too many was made; before its numbers were filled in.
    """
    thread = threading.get_ident()
    left = {
        "parameters": 4 * sum(tensor.numel() for tensor in tensors.values()) + NUMBERS,
        "modules": 100 * len(tensors) + MODULES,
    }

    def take(what: str, count: int) -> None:
        left[what] -= count if threading.get_ident() == thread else 0
        if left[what] < 0:
            raise ValueError(
                f"The config asks for many more {what} than model.safetensors has weights for ({len(tensors)} "
                "tensors). Expected the config of these weights. Do not use this folder."
            )

    def parameter(_: Any, __: str, value: Tensor | None) -> None:
        take("parameters", 0 if value is None else value.numel())

    def module(_: Any, __: str, ___: Any) -> None:
        take("modules", 1)

    with ExitStack() as stack:
        stack.callback(hooks.register_module_parameter_registration_hook(parameter).remove)
        stack.callback(hooks.register_module_module_registration_hook(module).remove)
        yield
