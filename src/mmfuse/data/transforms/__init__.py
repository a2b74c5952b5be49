"""One modality of one sample -> tensor. Runs in the workers of the loader."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from mmfuse.data.transforms.audio import AudioTransform
from mmfuse.data.transforms.augment import Augment
from mmfuse.data.transforms.augment_audio import Gain, Noise, Shift
from mmfuse.data.transforms.augment_series import Crop, Jitter, Scaling
from mmfuse.data.transforms.augment_text import TokenDropout
from mmfuse.data.transforms.feature import FeatureTransform
from mmfuse.data.transforms.image import ImageTransform
from mmfuse.data.transforms.series import SeriesTransform
from mmfuse.data.transforms.tabular import TabularTransform
from mmfuse.data.transforms.text import TextTransform
from mmfuse.data.transforms.tokenizer import train_tokenizer
from mmfuse.data.transforms.video import VideoTransform
from mmfuse.data.transforms.volume import VolumeTransform


@runtime_checkable
class Transform(Protocol):
    """What the loader asks of a transform. Any picklable object that has these will do.

    The value is a cell of the table: text, a number, an array, the path or the bytes of a file. With ``columns`` it is
    a mapping from these columns to their cells, None where empty; the modality is absent where all are.

    Attributes:
        takes_path: a text cell is the path of a file (relative to the folder of the table), and comes as a ``Path``.
        padding: None if all results have one shape; else their first axis is time, and this number fills them up.
        random: the result depends on the random generators of torch, numpy or Python.

    A transform may have more:

    - ``columns``, a tuple of names: it reads several columns, instead of the one with the name of the modality.
    - ``batch(values) -> (tensors, lost)``: all values of a batch in one call, where that is faster or where something
      is cut off: ``lost`` counts the steps (ids, samples, frames) that each value has lost. The loader adds them up.
    - ``lengths(values) -> lengths``: how many steps the tensor of each value will have, told without making it, for
      ``load_batches(..., bucket_by=...)``.
    - ``whole(values) -> Tensor``: for a column that is one array: the rows of a batch at once.
    - ``torch_only = True``: of these generators it asks torch's alone, and the others are not seeded for it.
    - ``finite = True``: what it gives holds no NaN and no infinity, and the loader does not look again.
    - ``reader(table, name)``: it reads the rows of a table by itself, as a ``CellReader`` does.

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
    "Augment": Augment,
    "FeatureTransform": FeatureTransform,
    "ImageTransform": ImageTransform,
    "SeriesTransform": SeriesTransform,
    "TabularTransform": TabularTransform,
    "TextTransform": TextTransform,
    "VideoTransform": VideoTransform,
    "VolumeTransform": VolumeTransform,
}

__all__ = [
    "TRANSFORMS",
    "AudioTransform",
    "Augment",
    "Crop",
    "FeatureTransform",
    "Gain",
    "ImageTransform",
    "Jitter",
    "Noise",
    "Scaling",
    "SeriesTransform",
    "Shift",
    "TabularTransform",
    "TextTransform",
    "TokenDropout",
    "Transform",
    "VideoTransform",
    "VolumeTransform",
    "train_tokenizer",
]
