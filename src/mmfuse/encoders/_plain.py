"""A small convolutional network for images that look nothing like photographs, and for training from scratch."""

from collections.abc import Sequence

from torch import nn


class PlainNetwork(nn.Module):
    r"""Convolutions of 3 x 3, each with BatchNorm and GELU; the first one of a stage halves height and width.

    VGG (Simonyan and Zisserman, 2015, https://arxiv.org/abs/1409.1556) with strides in the place of pooling
    (Springenberg et al., 2015, https://arxiv.org/abs/1412.6806). The first convolution is 5 x 5: it sees the image only
    once.

    Args:
        channels: of the images.
        stages: ``[channels, convolutions]`` of each stage.
    """

    def __init__(self, channels: int, stages: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.features = nn.Sequential()
        for width, depth in stages:
            first = _convolution(channels, width, taps=3 if self.features else 5, stride=2)
            self.features.append(nn.Sequential(first, *(_convolution(width, width) for _ in range(depth - 1))))
            channels = width
        self.channels = channels


def _convolution(before: int, after: int, *, taps: int = 3, stride: int = 1) -> nn.Sequential:
    # BatchNorm has the bias.
    conv = nn.Conv2d(before, after, taps, stride=stride, padding=taps // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.GELU())
