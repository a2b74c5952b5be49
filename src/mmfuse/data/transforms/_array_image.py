"""Arrays and tensors of pixels -> uint8 tensor (..., channel, height, width), after a check that they are images."""

from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mmfuse.data.transforms._decode_image import Box

CHANNELS_LAST = "Move the channels to the front: image.permute(2, 0, 1), or array.transpose(2, 0, 1)."


class PixelPicture:
    """An image that is a tensor or an array already: (channel, height, width), or (height, width) for a grey one.

    uint8 from 0 to 255, or floats from 0 to 1, which are rounded to 1/255.
    """

    def __init__(self, value: Any) -> None:
        pixels = as_tensor(value)
        self._values = as_uint8(pixels[None] if pixels.dim() == 2 else pixels, axes=3)
        self.height, self.width = self._values.shape[-2:]

    def cut(self, box: Box, size: int | None = None) -> UInt8[Tensor, "channel height width"]:  # noqa: ARG002
        """A part of the image."""
        return self._values[:, box.top : box.top + box.height, box.left : box.left + box.width]


def as_tensor(value: Any) -> Tensor:
    """The same numbers as a tensor; ValueError for what torch cannot hold."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.from_numpy(np.require(value, requirements=["C", "W"]))
    except TypeError:
        raise ValueError(
            f"The image is an array of {value.dtype}. Expected uint8. Use array.astype('uint8')."
        ) from None


def as_uint8(pixels: Tensor, axes: int) -> UInt8[Tensor, "*batch channel height width"]:
    """Pixels from 0 to 255; ValueError if these are no images with 1 or 3 channels, or out of range."""
    if pixels.dim() != axes or pixels.shape[-3] not in (1, 3) or not pixels.numel():
        raise ValueError(
            f"The image is a tensor of shape {tuple(pixels.shape)} and dtype {pixels.dtype}. Expected (channel, "
            f"height, width) with 1 or 3 channels. {_mend(tuple(pixels.shape))}"
        )
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise ValueError(
            f"The image is a tensor of dtype {pixels.dtype}. Expected torch.uint8 from 0 to 255, or floats from 0 to "
            "1. Scale it to 0 to 255, by one rule for all images of the data set: (image / 256).to(torch.uint8)."
        )
    if broken := int((~pixels.isfinite()).sum()):
        raise ValueError(
            f"The image has {broken} of {pixels.numel()} values that are NaN or infinite. Expected finite values. "
            "Make it again from its source, or leave it out (None)."
        )
    low, high = (float(limit) for limit in pixels.aminmax())
    if low < 0 or high > 1:
        raise ValueError(
            f"The image has float values from {low:g} to {high:g}. Expected the range 0 to 1, not normalised. "
            "Divide by 255, or pass torch.uint8."
        )
    return (pixels * 255).round().to(torch.uint8)


def _mend(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[-1] in (1, 3, 4) and shape[0] not in (1, 3):
        return CHANNELS_LAST
    if len(shape) == 3 and shape[0] in (2, 4):
        return "Leave out the channel of transparency: image[:3], or image[:1] of a grey one."
    return "Give each image by itself, as torch.uint8."
