"""One modality of one sample -> tensor. Runs in the workers of the loader."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from mmfuse.data.transforms.audio import AudioTransform
from mmfuse.data.transforms.image import ImageTransform
from mmfuse.data.transforms.text import TextTransform, train_tokenizer


@runtime_checkable
class Transform(Protocol):
    """What the loader asks of a transform. Any picklable object that has these will do.

    Attributes:
        takes_path: the value is the path of a file (relative to the folder of the table); else the cell itself.
        padding: None if all results have one shape; else their first axis is time, and this number fills them up.
        random: the result depends on torch's random generator.

    A value that cannot be used raises ``ValueError``; the reader adds row, column and file.
    """

    takes_path: bool
    padding: float | None
    random: bool

    def __call__(self, value: Any) -> Tensor:
        """The tensor of one value."""
        ...

    def blank(self) -> Tensor:
        """What stands in for an absent sample: right shape and dtype, the shortest length that an encoder accepts."""
        ...


TRANSFORMS = {
    "AudioTransform": AudioTransform,
    "ImageTransform": ImageTransform,
    "TextTransform": TextTransform,
}

__all__ = ["TRANSFORMS", "AudioTransform", "ImageTransform", "TextTransform", "Transform", "train_tokenizer"]
