"""Volumes (CT, MRI), slice by slice through an image encoder: (batch, slice, channel, height, width) -> Features."""

from collections.abc import Sequence
from typing import Any

from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.volume import VolumeTransform
from mmfuse.encoders._around import AroundEncoder
from mmfuse.encoders.video import VideoEncoder


@recorded
class VolumeEncoder(AroundEncoder):
    """Each slice through an image encoder, then a transformer over the slices: :class:`VideoEncoder`, for volumes.

    Args:
        frame_encoder: an encoder of images, with 3 channels.
        num_layers: transformer layers over the slices; 0: none.
        num_heads: heads of attention; must divide the ``dim`` of the frame encoder.
        slices: slices of a volume, evenly over its length; None: all of them.
        axis: along which it is cut, as :class:`~mmfuse.data.transforms.VolumeTransform` takes it.
        window: the values that become black and white, in the unit of the files; see there.
        percentiles: the same as percentiles of each volume, where no ``window`` is given.

    Raises:
        TypeError: if the frame encoder is none.
        ValueError: if a number does not fit; in ``forward`` for an input with other axes.
    """

    def __init__(
        self,
        frame_encoder: Any,
        *,
        num_layers: int = 2,
        num_heads: int = 4,
        slices: int | None = 32,
        axis: int | None = None,
        window: Sequence[int | float] | None = None,
        percentiles: Sequence[int | float] = (0.5, 99.5),
    ) -> None:
        super().__init__()
        self.frames = VideoEncoder(frame_encoder, num_layers=num_layers, num_heads=num_heads)
        self._cut: dict[str, Any] = {"slices": slices, "axis": axis, "window": window, "percentiles": percentiles}
        self.transform()  # what does not fit together is said now

    @property
    def _inner(self) -> Any:
        return self.frames

    def forward(self, input: Input) -> Features:
        return self.frames(input)

    def transform(self, train: bool = False) -> VolumeTransform:
        """From a volume to what ``forward`` takes; the same in training."""
        del train
        return VolumeTransform(self.frames.transform().size, **self._cut)
