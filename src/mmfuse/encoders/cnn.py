"""Images through a convolutional network of torchvision: (batch, channel, height, width) -> Features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmfuse._checks import nearest, require_choice, require_count, require_shape, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.image import ImageTransform
from mmfuse.encoders._backbone import WrappedEncoder, require_preset
from mmfuse.encoders._batchnorm import run_present
from mmfuse.encoders._pixels import Pixels
from mmfuse.encoders._plain import PlainNetwork
from mmfuse.encoders._torchvision import find_weights, load_weights
from mmfuse.layers.checkpointing import run_in_turn

FAMILIES = ("resnet", "resnext", "wide_resnet", "convnext", "efficientnet", "mobilenet")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWN_TRANSFORM = "Make such images with a transform of your own: load_batches(table, model, transforms={name: it})."
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"name": "convnext", "stages": [[32, 2], [64, 2]], "size": 32},
    "small": {"name": "convnext", "stages": [[64, 2], [128, 2], [256, 2]], "size": 64},
    "plain": {
        "name": "plain",
        "stages": [[16, 1], [32, 1], [64, 1], [64, 1]],
        "size": 64,
        "pool": "place",
        "dropout": 0.3,
    },
}


@recorded
class CNNEncoder(WrappedEncoder):
    """Convolutional network of torchvision: ResNet, ResNeXt, ConvNeXt, EfficientNet or MobileNet, without its head.

    Takes images ``(batch, channel, height, width)`` of one size: uint8, which it normalises on its device, or floats
    that are normalised already. The tokens are the cells of the last feature map, row by row; ``pooled`` is their mean,
    or with ``pool="place"`` one linear layer over all of them, which tells where in the image something is.

    The networks with ``stages`` take images of any number of channels, as many as there are means; those of torchvision
    take 3. For images that look nothing like photographs, give the statistics of your own, and train "plain"::

        CNNEncoder.preset("plain", **pixel_statistics(train, "depth"))

    Where the network has BatchNorm, a training batch is filled up before it runs: in the place of each sample
    without an image stands a copy of one with an image. So the statistics are those of real images; if no sample
    has one, they stay as they were.

    ResNet: He et al., 2016, https://arxiv.org/abs/1512.03385;
    ConvNeXt: Liu et al., 2022, https://arxiv.org/abs/2201.03545

    Args:
        name: name of a torchvision model, such as "resnet18"; with ``stages`` "convnext", or "plain": convolutions with
            BatchNorm (:class:`~mmfuse.encoders._plain.PlainNetwork`). Random weights.
        dim: width of the tokens, by one linear layer; the channels of the last feature map if None.
        size: height and width of the images, in pixels.
        mean: mean of each channel, for values in [0, 1], that is subtracted from pixels of uint8.
        std: standard deviation of each channel that they are divided by.
        freeze: "none", "all", or a number: the stem and so many of the lowest stages are not trained.
        stages: ``[channels, blocks]`` of each stage of a network of your own.
        pool: "mean" or "place".
        dropout: before the layer of ``pool="place"``, in training.
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
        pool: str = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_count("CNNEncoder", size=size, dim=1 if dim is None else dim)
        require_choice("CNNEncoder", "pool", pool, ("mean", "place"))
        require_share("CNNEncoder", dropout=dropout)
        own = OWN.get(name) if stages else None
        self.size = size
        self.mean, self.std = list(mean), list(std)
        self.channels = len(self.mean) if own else 3
        self.pixels = Pixels("CNNEncoder", mean, std, channels=self.channels)
        network = own(self.channels, stages) if own else _network(name)
        self.backbone = _features(network)
        channels = _channels(network)
        self.dim = dim or channels
        self.checkpointing = checkpointing
        self.project = nn.Linear(channels, dim) if dim else nn.Identity()
        self.place = _place(self._cells() * self.dim, self.dim, dropout) if pool == "place" else None
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
        """A small network with random weights.

        ConvNeXt: "tiny" (0.1 million parameters) or "small" (1.6 million). With BatchNorm: "plain" (0.1 million), which
        begins to learn sooner from few images.
        """
        return cls(**require_preset("CNNEncoder", name, PRESETS) | options)

    def forward(self, input: Input) -> Features:
        size = {"height": self.size, "width": self.size}
        expected = {"batch": input.present.shape[0], "channel": self.channels, **size}
        mend = "Make the images with encoder.transform()." if self.channels == 3 else OWN_TRANSFORM
        require_shape("CNNEncoder input", input.values, expected, mend)
        grid = run_present("CNNEncoder", self.backbone, self._run, self.pixels(input), input.present)
        tokens = self.project(grid.flatten(2).transpose(1, 2))  # (batch, cell, dim)
        mask = input.present[:, None].expand(tokens.shape[:2])
        return Features(tokens, mask, self.place(tokens.flatten(1)) if self.place else tokens.mean(dim=1))

    def transform(self, train: bool = False) -> ImageTransform:
        """From an image file to what ``forward`` takes (of 3 channels); with random crops if ``train``."""
        return ImageTransform(self.size, crop_scale=(0.8, 1.0) if train else None)

    def _cells(self) -> int:
        """Cells of the last feature map."""
        with torch.no_grad():
            self.backbone.eval()
            grid = self.backbone(torch.zeros(1, self.channels, self.size, self.size))
            self.backbone.train()
        return grid.shape[-2] * grid.shape[-1]

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
            f"CNNEncoder knows no model named {name!r}. Expected one of {known} of torchvision, or 'convnext' or "
            f"'plain' with stages=[[32, 2], [64, 2]]. Choose one of these.{nearest(name, known)}"
        )


def _own_convnext(channels: int, stages: Sequence[Sequence[int]]) -> nn.Module:
    """A ConvNeXt of these stages. Its blocks count from the start: the scale of 1e-6 is for very deep ones."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = [width for width, _ in stages]
    following: list[int | None] = [*widths[1:], None]
    blocks = [CNBlockConfig(width, after, depth) for (width, depth), after in zip(stages, following, strict=True)]
    network = ConvNeXt(blocks, layer_scale=0.1)
    if channels != 3:
        network.features[0][0] = _first(channels, network.features[0][0])
    return network


def _first(channels: int, conv: Any) -> nn.Conv2d:
    """The same convolution, for images of so many channels."""
    made = nn.Conv2d(channels, conv.out_channels, conv.kernel_size, stride=conv.stride)
    nn.init.trunc_normal_(made.weight, std=0.02)
    return made


OWN: dict[str, Any] = {"convnext": _own_convnext, "plain": PlainNetwork}


def _features(network: Any) -> nn.Sequential:
    """Stem and stages, without the head."""
    if hasattr(network, "features"):
        return network.features
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    return nn.Sequential(stem, network.layer1, network.layer2, network.layer3, network.layer4)


def _place(cells: int, dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(cells, dim))


def _head(network: Any) -> nn.Module:
    return network.fc if hasattr(network, "fc") else network.classifier


def _channels(network: nn.Module) -> int:
    """Channels of the last feature map: what the first linear layer of the head reads, where there is one."""
    if isinstance(network, PlainNetwork):
        return network.channels
    return next(part.in_features for part in _head(network).modules() if isinstance(part, nn.Linear))
