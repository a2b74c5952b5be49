"""A PIL image -> a part of it as uint8 (channel, height, width): upright, and grey (channel=1) or RGB (channel=3)."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

# EXIF orientation -> how to come upright: swap the axes, then mirror, then turn upside down.
TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
ORIENTATION = 0x0112  # the tag


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Picture:
    """A PIL image, of which a part is wanted. Of a file, nothing is decoded before.

    Args:
        image: the PIL image.
        own: ``image`` is a file for this use only: a JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size where that
            is enough, or by torchcodec if it is installed, which gives the same pixels.
    """

    def __init__(self, image: Any, *, own: bool = False) -> None:
        self._image = image
        self._own = own
        self._turn = TURNS[_orientation(image)]
        self.height, self.width = (image.width, image.height) if self._turn[0] else (image.height, image.width)

    def cut(self, box: Box, size: int | None = None) -> UInt8[Tensor, "channel height width"]:
        """A part of the upright image.

        With ``size`` it may come smaller, but not below ``size`` in height and width if the image has as many.
        """
        swapped, mirrored, flipped = self._turn
        top = self.height - box.top - box.height if flipped else box.top
        left = self.width - box.left - box.width if mirrored else box.left
        stored = Box(left, top, box.width, box.height) if swapped else Box(top, left, box.height, box.width)
        pixels = self._pixels(stored, 1 if size is None else self._draft(stored, size))
        pixels = pixels.transpose(1, 2) if swapped else pixels
        axes = [2] * mirrored + [1] * flipped
        return pixels.flip(axes) if axes else pixels

    def _draft(self, box: Box, size: int) -> int:
        """Ask the decoder of JPEG for a smaller image, which it makes from the lower frequencies: by which divisor."""
        room = min(box.height, box.width) // size
        divisor = next((d for d in (8, 4, 2) if d <= room), 1)
        if divisor == 1 or not self._own:
            return 1
        image = self._image
        return divisor if image.draft(None, (image.width // divisor, image.height // divisor)) else 1

    def _pixels(self, box: Box, divisor: int) -> Tensor:
        image = self._image
        if divisor == 1 and (whole := self._decoded_by_torchcodec()) is not None:
            return whole[:, box.top : box.top + box.height, box.left : box.left + box.width]
        try:
            image.load()
        except Exception:  # Pillow has many kinds of error for damaged files, SyntaxError among them
            raise ValueError(
                f"The {image.format or 'image'} breaks off or is damaged. Expected a whole file. "
                "Copy or download it again."
            ) from None
        right, bottom = -(-(box.left + box.width) // divisor), -(-(box.top + box.height) // divisor)
        part = image.crop((box.left // divisor, box.top // divisor, right, bottom))
        pixels = torch.from_numpy(np.array(_plain(part, image)))
        return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)

    def _decoded_by_torchcodec(self) -> Tensor | None:
        """A JPEG in RGB; None for all else, and for what torchcodec refuses: Pillow has the last word."""
        image = self._image
        # With EXIF, torchcodec would turn the image by itself.
        if not self._own or (image.format, image.mode) != ("JPEG", "RGB") or "exif" in image.info:
            return None
        if (decode := _torchcodec()) is None:
            return None
        image.fp.seek(0)  # Pillow, if it has to decode after all, looks for its place by itself
        try:
            pixels = decode(image.fp.read())
        except RuntimeError:
            return None
        return pixels if pixels.shape == (3, image.height, image.width) else None


@cache
def _torchcodec() -> Any:
    """Its decoder of JPEG, 1.3 times as fast as Pillow's; None where it is missing, or does not fit this torch."""
    try:
        from torchcodec.decoders import decode_jpeg
    except Exception:  # ImportError, or what its libraries raise where they cannot be loaded
        return None
    return decode_jpeg


def _orientation(image: Any) -> int:
    """What the camera has noted; 1 (upright) where that cannot be read."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged notes are no reason to refuse the image
        return 1
    return found if found in TURNS else 1


def _plain(part: Any, image: Any) -> Any:
    """Grey or RGB, of a part of an image in any mode."""
    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return part
    if mode.startswith("I;16"):
        return (np.asarray(part) >> 8).astype(np.uint8)
    if mode in ("I", "F"):
        return _eight_bits(part, image)
    if mode == "1":
        return part.convert("L")
    if "transparency" in image.info or mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        return _on_white(part)
    if mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        return _inverted(part).convert("RGB")  # Pillow takes every one for Adobe's, which are stored inverted
    return part.convert("RGB")


def _on_white(part: Any) -> Any:
    from PIL import Image

    clear = (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")


def _inverted(part: Any) -> Any:
    from PIL import ImageChops

    return ImageChops.invert(part)


def _eight_bits(part: Any, image: Any) -> Any:
    """32 bits: integers are taken for 16 bits, floats for [0, 1]; what does not fit is refused, not guessed."""
    everything = np.asarray(image)
    low, high = everything.min(), everything.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # false for NaN as well
            raise _range("floats", low, high, "floats from 0 to 1")
        return np.round(np.asarray(part) * 255).astype(np.uint8)
    # Up to 255, a file of 16 bits would be all but black: more likely it means 8.
    certain = image.format in ("PNG", "PPM")
    if not (low >= 0 and high <= 65535 and (certain or high > 255 or high == 0)):
        raise _range("32-bit integers", low, high, "16 bits: a range from 0 to between 256 and 65535")
    return (np.asarray(part) >> 8).astype(np.uint8)


def _range(kind: str, low: float, high: float, expected: str) -> ValueError:
    return ValueError(
        f"The image holds {kind} from {low:g} to {high:g}. Expected {expected}. Scale it to 0 to 255, by one rule for "
        "all images of the data set, and save it as PNG."
    )
