"""The random generators: seeded, saved and put back."""

import random
import sys
from typing import Any

import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed torch (every device), Python's ``random``, and numpy's global generator if numpy is loaded."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


def random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All states, as tensors and as JSON, without pickle."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    version, words, gauss = random.getstate()
    return tensors, {"version": version, "words": list(words), "gauss": gauss}


def restore_random_states(tensors: dict[str, Tensor], python: dict[str, Any]) -> None:
    """Put back what :func:`random_states` gave. A device that is not here is left out."""
    torch.set_rng_state(tensors["torch"])
    for i in range(torch.cuda.device_count()):
        if f"cuda:{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda:{i}"], i)
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
