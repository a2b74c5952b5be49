"""Videos through a 3D network of torchvision: (batch, time, channel, height, width) -> Features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmfuse._checks import require_count, require_shape
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.video import VideoTransform
from mmfuse.encoders._backbone import WrappedEncoder, require_preset
from mmfuse.encoders._batchnorm import run_present
from mmfuse.encoders._networks3d import (
    CLIPS,
    behead,
    build_network,
    require_name,
    run_network,
    stem_and_layers,
)
from mmfuse.encoders._pixels import Pixels
from mmfuse.encoders._torchvision import find_weights, load_weights

KINETICS_MEAN, KINETICS_STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"name": "swin3d", "stages": [[32, 1], [64, 1]], "num_frames": 8, "size": 32},
    "small": {"name": "swin3d", "stages": [[64, 2], [128, 2], [256, 2]], "num_frames": 16, "size": 64},
}


@recorded
class Video3DEncoder(WrappedEncoder):
    """3D network of torchvision: R3D, MC3, R(2+1)D, S3D, Video Swin or MViT, without its head.

    Takes clips ``(batch, time, channel=3, height, width)`` of ``num_frames`` frames of one size: uint8, which it
    normalises on its device, or floats that are normalised already. The tokens are the cells of the last feature map,
    by time, row and column; ``pooled`` is what the head of the network would read: their mean, or the class token of
    MViT. Each clip is taken evenly over its whole length; the weights of torchvision were trained on cuts of one or
    two seconds: cut long recordings before.

    Where the network has BatchNorm, a training batch is filled up before it runs: in the place of each sample without
    a clip stands a copy of one with a clip. So the statistics are those of real clips; if no sample has one, they stay
    as they were.

    R(2+1)D: Tran et al., 2018, https://arxiv.org/abs/1711.11248;
    S3D: Xie et al., 2018, https://arxiv.org/abs/1712.04851;
    MViT: Li et al., 2022, https://arxiv.org/abs/2112.01526;
    Video Swin: Liu et al., 2022, https://arxiv.org/abs/2106.13230

    Args:
        name: "r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t", "swin3d_s", "swin3d_b", "mvit_v1_b" or "mvit_v2_s"
            of torchvision; "swin3d" with ``stages``. Random weights.
        dim: width of the tokens, by one linear layer; the channels of the last feature map if None.
        num_frames: frames of a clip; what the network was trained with if None.
        size: height and width of the frames, in pixels; what the network was trained with if None.
        mean: mean of each channel, for values in [0, 1], that is subtracted from pixels of uint8.
        std: standard deviation of each channel that they are divided by.
        freeze: "none", "all", or a number: the stem and so many of the lowest layers are not trained.
        stages: ``[channels, blocks]`` of each stage of a Video Swin of your own.
        checkpointing: recompute the activations of each block in the backward pass; less memory, more time.

    Raises:
        ValueError: for an unknown name, and for numbers that do not fit; in ``forward`` if the clips have another
            shape, or a mask.
    """

    def __init__(  # noqa: PLR0913  as of CNNEncoder, and the number of frames
        self,
        name: str = "r2plus1d_18",
        *,
        dim: int | None = None,
        num_frames: int | None = None,
        size: int | None = None,
        mean: Sequence[float] = KINETICS_MEAN,
        std: Sequence[float] = KINETICS_STD,
        freeze: int | str = "none",
        stages: Sequence[Sequence[int]] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        usual = CLIPS.get(name, (16, 112))
        self.num_frames = usual[0] if num_frames is None else num_frames
        self.size = usual[1] if size is None else size
        require_count("Video3DEncoder", num_frames=self.num_frames, size=self.size, dim=1 if dim is None else dim)
        self.mean, self.std = list(mean), list(std)
        self.pixels = Pixels("Video3DEncoder", mean, std)
        self.backbone = build_network(name, self.num_frames, self.size, stages)
        channels = behead(self.backbone)
        self.dim = dim or channels
        self.checkpointing = checkpointing
        self.project = nn.Linear(channels, dim) if dim else nn.Identity()
        self._freeze(freeze, *stem_and_layers(self.backbone))

    @classmethod
    def from_pretrained(
        cls, name: str = "r2plus1d_18", weights: str | Path | None = None, **options: Any
    ) -> "Video3DEncoder":
        """The weights that torchvision recommends (Kinetics), or a local state dict as ``.safetensors``.

        ``options`` are the keywords of the class; size, mean and std follow torchvision's weights.
        """
        require_name(name)
        state, told = find_weights("Video3DEncoder", name, weights)
        encoder = cls(name, **told | options)
        load_weights("Video3DEncoder", encoder.backbone, state, name)
        encoder.pretrained = True
        return encoder

    @classmethod
    def preset(cls, name: str = "tiny", **options: Any) -> "Video3DEncoder":
        """A small Video Swin with random weights: "tiny" (0.1 million parameters) or "small" (2.5 million)."""
        return cls(**require_preset("Video3DEncoder", name, PRESETS) | options)

    def forward(self, input: Input) -> Features:
        self._require_clips(input)
        clips = self.pixels(input).transpose(1, 2)  # (batch, channel, time, height, width)
        cells, pooled = run_present("Video3DEncoder", self.backbone, self._run, clips, input.present)
        tokens = self.project(cells)
        return Features(tokens, input.present[:, None].expand(tokens.shape[:2]), self.project(pooled))

    def transform(self, train: bool = False) -> VideoTransform:
        """From a clip to what ``forward`` takes; with random times and one random crop a clip if ``train``."""
        crop = (0.8, 1.0) if train else None
        return VideoTransform(self.size, num_frames=self.num_frames, crop_scale=crop, jitter=train)

    def _run(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        return run_network(self.backbone, clips, checkpointing=self.checkpointing)

    def _require_clips(self, input: Input) -> None:
        expected = {"batch": input.present.shape[0], "time": self.num_frames, "channel": 3}
        expected |= {"height": self.size, "width": self.size}
        require_shape("Video3DEncoder input", input.values, expected, "Make the clips with encoder.transform().")
        if input.mask is not None:
            raise ValueError(
                f"Video3DEncoder got clips with a mask. Expected {self.num_frames} real frames in each, and mask=None. "
                "Make the clips with encoder.transform(), or take VideoEncoder for clips of unequal length."
            )
