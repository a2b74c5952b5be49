"""Videos, frame by frame through an image encoder: (batch, time, channel, height, width) -> Features."""

from typing import Any

import torch
from torch import nn

from mmfuse._checks import require_axes
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.video import VideoTransform
from mmfuse.encoders._around import AroundEncoder
from mmfuse.encoders._inputs import token_mask
from mmfuse.layers.attention import require_heads
from mmfuse.layers.masking import masked_mean
from mmfuse.layers.sequence import SequenceTransformer


@recorded
class VideoEncoder(AroundEncoder):
    r"""Each frame through an image encoder, then a transformer over the frames.

    .. math:: x_t = \operatorname{LN}(\operatorname{pool}(E(\text{frame}_t))), \qquad
              Y = \operatorname{Transformer}(X + p), \qquad \bar{y} = \frac{1}{T} \sum_{t\ \text{real}} y_t

    One token stands for one frame. The norm brings any image encoder to the scale of the positions. ``pooled`` is the
    mean of the real tokens: no parameter has to learn it, and without a layer it is an average over segments, as in
    TSN (Wang et al., 2016, https://arxiv.org/abs/1608.00859). Frames that only fill a batch up reach neither the
    attention nor the statistics of the image encoder.

    On few clips and from scratch, image encoders with BatchNorm begin to learn much sooner than ViT and ConvNeXt.

    The image encoder runs on ``batch * time`` images at once. Freeze it (``freeze="all"``) to keep no activations of
    it; put it in :class:`~mmfuse.encoders.SkipAbsent` to spend no time on padding:
    ``VideoEncoder(SkipAbsent(CNNEncoder.from_pretrained("resnet18", freeze="all")), fps=2)``.

    Args:
        frame_encoder: an encoder of images: a module with ``dim``, and a ``transform`` with ``size``.
        num_layers: transformer layers over the frames; 0: none.
        num_heads: heads of attention; must divide the ``dim`` of the frame encoder.
        dropout: on both branches of each layer, in training.
        num_frames: frames of a clip, evenly over its length; 8 if ``fps`` is None, too.
        fps: frames in a second instead, so that a long clip has more tokens.
        max_seconds: longest part of a clip that ``fps`` takes.

    Raises:
        TypeError: if the frame encoder is none.
        ValueError: if a number does not fit; in ``forward`` for an input with other axes.
    """

    frame_encoder: Any

    def __init__(
        self,
        frame_encoder: Any,
        *,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
        num_frames: int | None = None,
        fps: int | float | None = None,
        max_seconds: int | float = 60.0,
    ) -> None:
        super().__init__()
        has_both = hasattr(frame_encoder, "dim") and hasattr(frame_encoder, "transform")
        if not isinstance(frame_encoder, nn.Module) or not has_both:
            raise TypeError(
                f"VideoEncoder got a {type(frame_encoder).__name__}. Expected an encoder of images: a module with dim "
                "and transform. Build one first: VideoEncoder(CNNEncoder.preset('tiny'))."
            )
        self.frame_encoder = frame_encoder
        require_heads("VideoEncoder", self.dim, num_heads)
        self.num_frames = 8 if num_frames is None and fps is None else num_frames
        self.fps, self.max_seconds = fps, max_seconds
        self.norm = nn.LayerNorm(self.dim)
        self.transformer = SequenceTransformer(self.dim, num_layers, num_heads=num_heads, dropout=dropout)
        self.transform()  # what does not fit together is said now

    @property
    def _inner(self) -> Any:
        return self.frame_encoder

    def forward(self, input: Input) -> Features:
        axes = ("batch", "time", "channel", "height", "width")
        require_axes("VideoEncoder input", input.values, axes, "Make the clips with encoder.transform().")
        mask = token_mask(input)
        frames: Features = self.frame_encoder(Input(input.values.flatten(0, 1), mask.flatten()))
        vectors = torch.where(mask[..., None], frames.pooled.unflatten(0, mask.shape), 0.0)
        tokens = self.transformer(self.norm(vectors), mask)
        return Features(tokens, mask, masked_mean(tokens, mask))

    def transform(self, train: bool = False) -> VideoTransform:
        """From a clip to what ``forward`` takes; with random times and one random crop a clip if ``train``."""
        size = getattr(self.frame_encoder.transform(), "size", None)
        if not isinstance(size, int):
            raise TypeError(
                f"VideoEncoder cannot tell how large the frames of {type(self.frame_encoder).__name__} are. Expected "
                "a transform with their size in pixels, as ImageTransform has. Give yours a size."
            )
        return VideoTransform(
            size,
            num_frames=self.num_frames,
            fps=self.fps,
            max_seconds=self.max_seconds,
            crop_scale=(0.8, 1.0) if train else None,
            jitter=train,
        )
