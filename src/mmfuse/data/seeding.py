"""The global generators of torch, numpy and Python, seeded for one row after the other and put back at the end."""

import random
import sys
from typing import Any

import torch


class Seeded:
    """A context in which :meth:`seed` sets every global generator; what they were is put back at its end.

    Saving and putting back costs more than seeding: one context serves all rows of a batch.

    Args:
        enabled: False: nothing is touched.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled

    def __enter__(self) -> "Seeded":
        if not self.enabled:
            return self
        numpy = _numpy_random()
        self._states: tuple[Any, Any, Any] = (
            torch.get_rng_state(),
            random.getstate(),
            numpy.get_state() if numpy else None,
        )
        return self

    def seed(self, *key: int) -> None:
        """Seed all of them with a number that is a function of ``key``."""
        if not self.enabled:
            return
        seed = random.Random(repr(key)).getrandbits(63)
        # 500 times faster than torch.manual_seed, which also seeds every GPU.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        if numpy := _numpy_random():
            numpy.seed(seed % 2**32)

    def __exit__(self, *error: object) -> None:
        if not self.enabled:
            return
        of_torch, of_python, of_numpy = self._states
        torch.set_rng_state(of_torch)
        random.setstate(of_python)
        numpy = _numpy_random()
        if numpy and of_numpy is not None:
            numpy.set_state(of_numpy)


def _numpy_random() -> Any:
    """numpy's global generator, if anybody has loaded numpy."""
    return sys.modules["numpy"].random if "numpy" in sys.modules else None
