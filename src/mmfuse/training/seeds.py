"""The random generators: seeded, saved and put back."""

import hashlib
import operator
import random
import sys
from collections.abc import Mapping

import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed torch (every device), Python's ``random``, and numpy's global generator if numpy is loaded."""
    seed = operator.index(seed)  # it may be one of numpy
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


def seed_of(*numbers: int | str) -> int:
    """A seed that is a function of some numbers and names, and unrelated to that of others."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")


def random_states() -> dict[str, Tensor]:
    """The states of the generators of torch (host and current GPU), Python and numpy, as tensors."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    version, words, gauss = random.getstate()
    states["python"] = torch.tensor([version, *words])
    states["python_gauss"] = _maybe(gauss)
    if "numpy" in sys.modules:
        _, key, position, has_gauss, gauss = sys.modules["numpy"].random.get_state()
        states["numpy"] = torch.tensor([*key.tolist(), position, has_gauss])
        states["numpy_gauss"] = _maybe(gauss)
    return states


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Put back what :func:`random_states` gave. A device that is not here is left out."""
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    version, *words = states["python"].tolist()
    random.setstate((version, tuple(words), next(iter(states["python_gauss"].tolist()), None)))
    if "numpy" in states:
        import numpy

        *key, position, has_gauss = states["numpy"].tolist()
        (gauss,) = states["numpy_gauss"].tolist()
        numpy.random.set_state(("MT19937", numpy.array(key, dtype=numpy.uint32), position, has_gauss, gauss))


def _maybe(number: float | None) -> Tensor:
    return torch.tensor([] if number is None else [number], dtype=torch.float64)
