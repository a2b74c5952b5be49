"""G19: images against Pillow and torchvision's v2, and against decoding alone; videos against PyAV alone."""

from functools import partial
from pathlib import Path

import torch
from common import Row
from data_files import film, photos
from data_measure import Case, Setting, faster, hidden, slower
from plain import data_images, data_video

from mmfuse.contracts import Input
from mmfuse.data.transforms import ImageTransform, VideoTransform, _decode_image
from mmfuse.encoders import ViTEncoder

SIZE = 224
INCEPTION, OURS = (0.08, 1.0), (0.8, 1.0)  # smallest and largest share of a crop: v2's own, and that of our encoders
CROPS = {
    "crops of 8 to 100 %, bicubic": (INCEPTION, "bicubic"),
    "crops of 8 to 100 %, bilinear": (INCEPTION, "bilinear"),
    "crops of 80 to 100 %, bicubic": (OURS, "bicubic"),
}


def images(width: int, height: int, target: float, setting: Setting) -> list[Row]:
    """Rows of one size of photos. With the encoder's part: both end with a batch of normalised floats."""
    paths = photos(setting.place("images"), width, height, 2 if setting.quick else 8)
    encoder = ViTEncoder.preset("tiny", size=SIZE)
    rows = []
    crops = list(CROPS.items())[: 1 if setting.quick else None]
    for name, (scale, interpolation) in crops:
        transform = ImageTransform(SIZE, crop_scale=scale, flip=0.5, interpolation=interpolation)
        steps = data_images.train_steps(
            SIZE, scale=scale, interpolation=interpolation, mean=encoder.mean, std=encoder.std
        )
        rows += _both(f"images {width}x{height}, {name}", setting, transform, steps, encoder, paths, target)
    transform = encoder.transform()
    steps = data_images.evaluation_steps(SIZE, interpolation="bicubic", mean=encoder.mean, std=encoder.std)
    _require_alike(transform, steps, encoder, paths)
    rows += _both(f"images {width}x{height}, evaluation", setting, transform, steps, encoder, paths, None)
    transform = ImageTransform(SIZE, crop_scale=OURS, flip=0.5)
    bare = {
        f"images {width}x{height}, crops of 80 to 100 %: to decoding alone": (_each(data_images.decode, paths), 0.55)
    }
    return rows + faster(setting, _each(transform, paths), bare, len(paths))


def without_torchcodec(setting: Setting) -> list[Row]:
    """Training where only Pillow decodes, on both sides; the goal is one for a faster decoder."""
    paths = photos(setting.place("images"), 500, 375, 2 if setting.quick else 8)
    encoder = ViTEncoder.preset("tiny", size=SIZE)
    rows = []
    for name, (scale, interpolation) in CROPS.items():
        transform = ImageTransform(SIZE, crop_scale=scale, flip=0.5, interpolation=interpolation)
        steps = data_images.train_steps(
            SIZE, scale=scale, interpolation=interpolation, mean=encoder.mean, std=encoder.std
        )
        other = _each(partial(data_images.read, steps=steps), paths)
        name = f"images 500x375 without torchcodec, {name}: to Pillow and v2"
        with hidden(_decode_image, "_torchcodec"):
            rows += faster(setting, _each(transform, paths), {name: (other, None)}, len(paths))
    return rows


def _both(name, setting, transform, steps, encoder, paths, target) -> list[Row]:
    """To what the loader hands out, which is the goal, and to normalised floats: then our encoder's part counts too."""
    read = partial(data_images.read, steps=steps)
    ours, other = _each(transform, paths), _each(read, paths)
    rows = faster(setting, ours, {f"{name}: to Pillow and v2": (other, target)}, len(paths))
    present = torch.ones(len(paths), dtype=torch.bool)

    def to_floats() -> None:
        encoder.pixels(Input(torch.stack([transform(path) for path in paths]), present))

    def to_floats_too() -> None:
        torch.stack([read(path) for path in paths])

    named = f"{name}: to Pillow and v2, with normalising"
    return rows + faster(setting, to_floats, {named: (to_floats_too, None)}, len(paths))


def _require_alike(transform, steps, encoder, paths: list[Path]) -> None:
    """Both ways make the same picture, but for rounding and how bicubic filters end."""
    present = torch.ones(1, dtype=torch.bool)
    for path in paths:
        ours = encoder.pixels(Input(transform(path)[None], present))[0]
        apart = float((ours - data_images.read(path, steps)).abs().mean()) * 127.5
        if not apart < 2:
            raise AssertionError(f"{path.name} differs from Pillow and v2 by {apart:.1f} of 255 in the mean")


def _each(run, values):
    def runs() -> None:
        for value in values:
            run(value)

    return runs


def video(setting: Setting) -> list[Row]:
    """Frames of a clip of ten seconds, cut and resized, against decoding and resizing these frames by hand."""
    width, height, frames = (320, 240, 50) if setting.quick else (640, 360, 250)
    path = film(setting.place("video") / "clip.mp4", frames=frames, width=width, height=height)
    rows = []
    for wanted in (8, 32):
        transform = VideoTransform(SIZE, num_frames=wanted)
        indices = [int((i + 0.5) * frames / wanted) for i in range(wanted)]
        ours, other = partial(transform, path), partial(data_video.read, path, indices, SIZE)
        apart = float((ours().float() - other().float()).abs().mean())
        if not apart < 3:
            raise AssertionError(f"frames differ from PyAV's by {apart:.1f} of 255 in the mean")
        name = f"video of {width}x{height}, {wanted} of {frames} frames: time to PyAV alone"
        rows.append(slower(setting, name, ours, other, 1.1))
    return rows


CASES: dict[str, Case] = {
    "images 500x375": partial(images, 500, 375, 2.0),
    "images 1920x1080": partial(images, 1920, 1080, 1.8),
    "images without torchcodec": without_torchcodec,
    "video": video,
}
