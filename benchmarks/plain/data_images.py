"""Images as the recipes of torchvision read them: Pillow decodes, v2 crops, flips, scales and normalises floats."""

import torch
from PIL import Image
from torchvision.transforms import v2

INTERPOLATIONS = {"bicubic": v2.InterpolationMode.BICUBIC, "bilinear": v2.InterpolationMode.BILINEAR}


def train_steps(size, *, scale, interpolation, mean, std):
    how = INTERPOLATIONS[interpolation]
    crop = v2.RandomResizedCrop(size, scale=scale, interpolation=how, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *to_float(mean, std)])


def evaluation_steps(size, *, interpolation, mean, std):
    resize = v2.Resize(size, interpolation=INTERPOLATIONS[interpolation], antialias=True)
    return v2.Compose([resize, v2.CenterCrop(size), *to_float(mean, std)])


def to_float(mean, std):
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]


def read(path, steps):
    with Image.open(path) as image:
        return steps(image.convert("RGB"))


def decode(path):
    """The JPEG alone, at the smallest of the scales of its decoder that keeps 256 pixels."""
    with Image.open(path) as image:
        image.draft("RGB", (256, 256))
        image.load()
