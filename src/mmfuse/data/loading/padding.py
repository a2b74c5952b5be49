"""Which share of the steps in batches is padding."""

from collections.abc import Mapping

import numpy as np

from mmfuse.contracts import Batch


class Padding:
    """Counts the steps of each modality of sequences, and those that are real.

    Args:
        weights: what a step of each modality counts in the share over all; those that are not named count 1, or
            nothing if any is named.
    """

    def __init__(self, weights: Mapping[str, int | float]) -> None:
        self._weights = weights
        self._steps: dict[str, int] = {}
        self._real: dict[str, int] = {}

    def add(self, batch: Batch) -> None:
        """Count a batch on the CPU."""
        for name, given in batch.inputs.items():
            if given.mask is not None:
                self._steps[name] = self._steps.get(name, 0) + given.mask.numel()
                # numpy counts in a tenth of torch's time.
                self._real[name] = self._real.get(name, 0) + int(np.count_nonzero(given.mask.numpy()))

    @property
    def shares(self) -> dict[str, float]:
        """The share of each modality, and under ``"total"`` that over all; nothing where there are no sequences."""
        weights = {name: self._weights.get(name, 0 if self._weights else 1) for name in self._steps}
        steps = sum(weight * self._steps[name] for name, weight in weights.items())
        if not steps:
            return {}
        real = sum(weight * self._real[name] for name, weight in weights.items())
        return {"total": 1 - real / steps, **{name: 1 - self._real[name] / all_ for name, all_ in self._steps.items()}}
