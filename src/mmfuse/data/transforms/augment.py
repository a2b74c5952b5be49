"""A transform that also changes what it has made, at random: for training."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mmfuse._record import recorded
from mmfuse.data.transforms._made import require_tensor

OPTIONAL = ("columns", "lengths", "max_length", "mix")  # the last two are for Mixup


@recorded
class Augment:
    """A transform, and random steps on each of its tensors::

        load_batches(train, model, train=True, transforms={"audio": Augment(encoder.transform(True), [Noise(10, 30)])})

    A step is any picklable callable ``Tensor -> Tensor`` that draws from the global generators, which the reader seeds
    for each sample and epoch. Where the transform ends with a normalisation (it has ``raw`` and ``finish``, as
    :class:`~mmfuse.data.transforms.AudioTransform` has), the steps come before it, so that noisy clips look as they do
    in evaluation; a step that the normalisation would undo says ``after = True``, as ``Gain`` does, and comes after.

    Args:
        transform: of the modality; its ``padding``, ``blank``, ``columns`` and so on stay.
        steps: in the order in which they are applied.

    Raises:
        TypeError: for a step that cannot be called.
    """

    random = True

    def __init__(self, transform: Any, steps: Sequence[Callable[[Tensor], Tensor]]) -> None:
        for step in steps:
            if not callable(step):
                raise TypeError(
                    f"Augment got the step {step!r}. Expected a callable from tensor to tensor. "
                    "Build it first: Augment(transform, [Noise(10, 30)])."
                )
        self.transform = transform
        self.steps = list(steps)
        self.takes_path: bool = transform.takes_path
        self.padding: float | None = transform.padding
        for name in OPTIONAL:
            if hasattr(transform, name):
                setattr(self, name, getattr(transform, name))
        self._finish = getattr(transform, "finish", None)
        self._last = [step for step in steps if self._finish and getattr(step, "after", False)]
        self._first = [step for step in steps if step not in self._last]

    def __call__(self, value: Any) -> Tensor:
        return self.batch([value])[0][0]

    def batch(self, values: Sequence[Any]) -> tuple[list[Tensor], list[int]]:
        """All values of a batch, and how much each has lost, as the transform counts it."""
        tensors, lost = self._make(values)
        # Tensors may lie in the table, where a step that works in place would change them for good.
        return [self._change(tensor.clone()) for tensor in tensors], lost

    def blank(self) -> Tensor:
        """What stands in for an absent sample."""
        return self.transform.blank()

    def _make(self, values: Sequence[Any]) -> tuple[list[Tensor], list[int]]:
        make = getattr(self.transform, "raw", None) or getattr(self.transform, "batch", None)
        if make is None:
            return [self.transform(value) for value in values], [0] * len(values)
        return make(values)

    def _change(self, tensor: Tensor) -> Tensor:
        for step in self._first:
            tensor = require_tensor(step(tensor), of=f"The step {type(step).__name__}")
        if self._finish is not None:
            tensor = self._finish(tensor)
        for step in self._last:
            tensor = require_tensor(step(tensor), of=f"The step {type(step).__name__}")
        return tensor
