"""Images through a convolutional network of torchvision: (batch, channel, height, width) -> Features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmfuse._checks import nearest, require_count, require_shape
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.image import ImageTransform
from mmfuse.encoders._backbone import WrappedEncoder, require_preset
from mmfuse.encoders._batchnorm import run_present
from mmfuse.encoders._pixels import Pixels
from mmfuse.encoders._torchvision import find_weights, load_weights
from mmfuse.layers.checkpointing import run_in_turn

FAMILIES = ("resnet", "resnext", "wide_resnet", "convnext", "efficientnet", "mobilenet")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"name": "convnext", "stages": [[32, 2], [64, 2]], "size": 32},
    "small": {"name": "convnext", "stages": [[64, 2], [128, 2], [256, 2]], "size": 64},
}


@recorded
class CNNEncoder(WrappedEncoder):
    """Convolutional network of torchvision: ResNet, ResNeXt, ConvNeXt, EfficientNet or MobileNet, without its head.

    Takes images ``(batch, channel=3, height, width)`` of one size: uint8, which it normalises on its device, or floats
    that are normalised already. The tokens are the cells of the last feature map, row by row; ``pooled`` is their mean.

    Where the network has BatchNorm, a training batch is filled up before it runs: in the place of each sample
    without an image stands a copy of one with an image. So the statistics are those of real images; if no sample
    has one, they stay as they were.

    ResNet: He et al., 2016, https://arxiv.org/abs/1512.03385;
    ConvNeXt: Liu et al., 2022, https://arxiv.org/abs/2201.03545

    Args:
        name: name of a torchvision model, such as "resnet18"; "convnext" with ``stages``. Random weights.
        dim: width of the tokens, by one linear layer; the channels of the last feature map if None.
        size: height and width of the images, in pixels.
        mean: mean of each channel, for values in [0, 1], that is subtracted from pixels of uint8.
        std: standard deviation of each channel that they are divided by.
        freeze: "none", "all", or a number: the stem and so many of the lowest stages are not trained.
        stages: ``[channels, blocks]`` of each stage of a ConvNeXt of your own.
        checkpointing: recompute the activations of each block in the backward pass; less memory, more time.

    Raises:
        ValueError: for an unknown name and for a ``freeze`` that does not fit; in ``forward`` if the images have
            another shape.
    """

    def __init__(  # noqa: PLR0913  what every encoder has, and what its transform needs
        self,
        name: str = "resnet18",
        *,
        dim: int | None = None,
        size: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        freeze: int | str = "none",
        stages: Sequence[Sequence[int]] | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_count("CNNEncoder", size=size, dim=1 if dim is None else dim)
        network = _own_convnext(stages) if name == "convnext" and stages else _network(name)
        self.size = size
        self.mean, self.std = list(mean), list(std)
        self.pixels = Pixels("CNNEncoder", mean, std)
        self.backbone = _features(network)
        channels = _channels(network)
        self.dim = dim or channels
        self.checkpointing = checkpointing
        self.project = nn.Linear(channels, dim) if dim else nn.Identity()
        self._freeze(freeze, [self.backbone[0]], list(self.backbone)[1:])

    @classmethod
    def from_pretrained(cls, name: str = "resnet18", weights: str | Path | None = None, **options: Any) -> "CNNEncoder":
        """The weights that torchvision recommends, or a local state dict as ``.safetensors`` (no pickle is read).

        ``options`` are the keywords of the class; size, mean and std follow torchvision's weights.
        """
        _require_name(name)
        state, told = find_weights("CNNEncoder", name, weights)
        encoder = cls(name, **told | options)
        network = _network(name)
        load_weights("CNNEncoder", network, state, name)
        encoder.backbone.load_state_dict(_features(network).state_dict())
        encoder.pretrained = True
        return encoder

    @classmethod
    def preset(cls, name: str = "tiny", **options: Any) -> "CNNEncoder":
        """A small ConvNeXt with random weights: "tiny" (0.1 million parameters) or "small" (1.6 million)."""
        return cls(**require_preset("CNNEncoder", name, PRESETS) | options)

    def forward(self, input: Input) -> Features:
        expected = {"batch": input.present.shape[0], "channel": 3, "height": self.size, "width": self.size}
        require_shape("CNNEncoder input", input.values, expected, "Make the images with encoder.transform().")
        grid = run_present("CNNEncoder", self.backbone, self._run, self.pixels(input), input.present)
        tokens = self.project(grid.flatten(2).transpose(1, 2))  # (batch, cell, dim)
        mask = input.present[:, None].expand(tokens.shape[:2])
        return Features(tokens, mask, tokens.mean(dim=1))

    def transform(self, train: bool = False) -> ImageTransform:
        """From an image file to what ``forward`` takes; with random crops if ``train``."""
        return ImageTransform(self.size, crop_scale=(0.8, 1.0) if train else None)

    def _run(self, images: Tensor) -> Tensor:
        return run_in_turn(self.backbone, images, checkpointing=self.checkpointing)


def _network(name: str) -> nn.Module:
    from torchvision import models

    _require_name(name)
    return models.get_model(name, weights=None)


def _require_name(name: str) -> None:
    from torchvision import models

    known = [n for n in models.list_models(module=models) if n.startswith(FAMILIES)]
    if name not in known:
        raise ValueError(
            f"CNNEncoder knows no model named {name!r}. Expected one of {known} of torchvision, or 'convnext' with "
            f"stages=[[32, 2], [64, 2]]. Choose one of these.{nearest(name, known)}"
        )


def _own_convnext(stages: Sequence[Sequence[int]]) -> nn.Module:
    """A ConvNeXt of these stages. Its blocks count from the start: the scale of 1e-6 is for very deep ones."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = [width for width, _ in stages]
    following: list[int | None] = [*widths[1:], None]
    blocks = [CNBlockConfig(width, after, depth) for (width, depth), after in zip(stages, following, strict=True)]
    return ConvNeXt(blocks, layer_scale=0.1)


def _features(network: Any) -> nn.Sequential:
    """Stem and stages, without the head."""
    if hasattr(network, "features"):
        return network.features
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    return nn.Sequential(stem, network.layer1, network.layer2, network.layer3, network.layer4)


def _head(network: Any) -> nn.Module:
    return network.fc if hasattr(network, "fc") else network.classifier


def _channels(network: nn.Module) -> int:
    """Channels of the last feature map: what the first linear layer of the head reads."""
    return next(part.in_features for part in _head(network).modules() if isinstance(part, nn.Linear))
