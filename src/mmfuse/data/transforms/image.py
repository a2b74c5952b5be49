"""Image files -> uint8 (channel=3, height, width)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from mmfuse._checks import require_choice, require_count, require_positive
from mmfuse._record import recorded
from mmfuse.data.transforms._array_image import PixelPicture, as_uint8
from mmfuse.data.transforms._decode_image import Box, Picture
from mmfuse.data.transforms._open_image import MAX_PIXELS, open_image, require_pixels
from mmfuse.data.transforms._random_crop import random_part
from mmfuse.data.transforms._random_settings import require_chances, require_crop_scale

AUGMENTS = {
    "trivialaugment": "TrivialAugmentWide",
    "randaugment": "RandAugment",
    "autoaugment": "AutoAugment",
    "augmix": "AugMix",
}


@recorded
class ImageTransform:
    """Decode an image and cut a square of ``size`` pixels out of it. The encoder normalises it, on its device.

    Takes a path, the bytes of a file, a PIL image, or a tensor or array ``(channel, height, width)`` with 1 or 3
    channels, of uint8 or of floats from 0 to 1. One conversion holds for all:

    - The orientation that a camera has noted (EXIF) is applied.
    - Grey, palette and 1-bit images become RGB, CMYK by Pillow's plain formula (inverted where Adobe's mark says so).
    - Where an image is transparent, white shows through.
    - Of 16 bits the upper 8 count. 32-bit integers are taken for 16 bits, and floats have to be in [0, 1].
    - Of an animation, the first frame is taken.

    In evaluation the largest centre square is resized, always from the whole JPEG. With ``crop_scale`` a random part
    is (Inception crops, Szegedy et al., 2015), and a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the
    part still has ``size`` pixels or more: that takes two thirds of the time, and differs by 2 to 6 of 255 in the mean
    from decoding the whole, for the most part by a shift of less than one pixel. Where torchcodec is installed, it
    decodes the other JPEGs in RGB, to the same pixels.

    Images are not mirrored unless asked (``flip``), in training neither: a mirrored image can contradict its text ("the
    cup left of the plate") and makes letters unreadable.

    Args:
        size: height and width of the result, in pixels.
        crop_scale: smallest and largest share of the area of a random crop; None: the centre, always the same.
        flip: probability of a mirrored image.
        augment: random changes of colour and shape, as torchvision makes them: "trivialaugment" (Müller and Hutter,
            2021), "randaugment", "autoaugment" or "augmix"; None: none.
        erase: probability that a rectangle is made black (random erasing, Zhong et al., 2020).
        interpolation: "bicubic" or "bilinear".
        max_pixels: largest height times width of a file, told by its header; None: Pillow's own limit.

    Raises:
        ValueError: for a file that is missing, empty, too large or not an image, and for tensors of another shape,
            type or range.
    """

    takes_path = True
    torch_only = True
    padding = None

    def __init__(
        self,
        size: int,
        *,
        crop_scale: Sequence[float] | None = None,
        flip: float = 0.0,
        augment: str | None = None,
        erase: float = 0.0,
        interpolation: str = "bicubic",
        max_pixels: int | None = MAX_PIXELS,
    ) -> None:
        require_count("ImageTransform", size=size)
        require_positive("ImageTransform", max_pixels=1 if max_pixels is None else max_pixels)
        require_choice("ImageTransform", "interpolation", interpolation, ("bicubic", "bilinear"))
        require_choice("ImageTransform", "augment", augment, (None, *AUGMENTS))
        require_crop_scale("ImageTransform", crop_scale)
        require_chances("ImageTransform", flip=flip, erase=erase)
        self.size = size
        self.max_pixels = max_pixels
        self.random = bool(crop_scale or flip or augment or erase)
        self._interpolation = interpolation
        self._crop_scale = tuple(crop_scale) if crop_scale else None
        self._changes = _make_changes(flip, augment, erase)

    def __call__(self, value: Any) -> UInt8[Tensor, "channel height width"]:
        with _open(value, self.max_pixels) as picture:
            box = self._choose(picture.height, picture.width)
            part = picture.cut(box, self.size if self._crop_scale else None)
        pixels = self._resized(part)
        for change in self._changes:
            pixels = change(pixels)
        return pixels

    def whole(self, values: Shaped[Tensor, "batch ..."]) -> UInt8[Tensor, "batch channel height width"]:
        """The images of a batch at once, from one array of images of equal size; for evaluation."""
        pixels = as_uint8(values, axes=4)
        box = _centre(*pixels.shape[-2:])
        part = pixels[:, :, box.top : box.top + box.height, box.left : box.left + box.width]
        return self._resized(part)

    def blank(self) -> UInt8[Tensor, "channel height width"]:
        """What stands in for an absent image."""
        return torch.zeros(3, self.size, self.size, dtype=torch.uint8)

    def _choose(self, height: int, width: int) -> Box:
        """Which part of an image becomes the square."""
        return random_part(height, width, self._crop_scale) if self._crop_scale else _centre(height, width)

    def _resized(self, part: Tensor) -> Tensor:
        images = part if part.dim() == 4 else part[None]
        sides = (self.size, self.size)
        made = images.shape[-2:] != sides
        if made:
            images = interpolate(images, sides, mode=self._interpolation, antialias=True)
        pixels = images.reshape(*part.shape[:-2], *sides).expand(*part.shape[:-3], 3, *sides)  # grey: three times
        if made and pixels.is_contiguous():
            return pixels
        # Channel by channel, as they are flipped and stacked in a fifth of the time. numpy does it faster than torch.
        return torch.from_numpy(np.array(pixels.numpy(), order="C"))


@contextmanager
def _open(value: Any, max_pixels: int | None) -> Iterator[Any]:
    """What holds the image: it has a height and a width, and gives a part of itself."""
    if isinstance(value, str | Path | bytes):
        with open_image(value, max_pixels) as image:
            yield Picture(image, own=True)
    elif isinstance(value, Tensor) or type(value).__module__ == "numpy":
        yield PixelPicture(value)
    else:
        yield _given(value, max_pixels)


def _given(image: Any, max_pixels: int | None) -> Picture:
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise ValueError(
            f"The image is a {type(image).__name__}. Expected a path, bytes, a PIL image, or a tensor or array of "
            "uint8. Turn lists into a tensor: torch.tensor(lists, dtype=torch.uint8)."
        )
    require_pixels(image.width, image.height, max_pixels)
    return Picture(image)  # never decoded smaller: it may be used again


def _centre(height: int, width: int) -> Box:
    """The largest centre square."""
    side = min(height, width)
    return Box(round((height - side) / 2), round((width - side) / 2), side, side)


class _Flip:
    """Mirrors with a probability; as torchvision's, without its search for what is to be mirrored."""

    def __init__(self, chance: float) -> None:
        self.chance = chance

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.flip(-1) if torch.rand(1).item() < self.chance else pixels


def _make_changes(flip: float, augment: str | None, erase: float) -> list[Any]:
    """The steps of torchvision after the crop, in the order of its training recipes."""
    from torchvision.transforms import v2

    changes: list[Any] = [_Flip(flip)] if flip else []
    changes += [getattr(v2, AUGMENTS[augment])()] if augment else []
    return changes + ([v2.RandomErasing(erase)] if erase else [])
