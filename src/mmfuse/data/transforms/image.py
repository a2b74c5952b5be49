"""Image files -> float32 (channel, height, width)."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mmfuse._checks import require_choice, require_positive
from mmfuse._record import recorded


@recorded
class ImageTransform:
    """Decode an image, cut a square of ``size`` pixels out of it and normalise each channel.

    Takes a path, the bytes of a file, a PIL image, or a uint8 tensor ``(channel, height, width)`` with 1 or 3
    channels. The orientation that a camera has noted (EXIF) is applied; grey, palette and transparent images become
    RGB. In evaluation the largest centre square is resized. With ``crop_scale`` a random part is (Inception crops,
    Szegedy et al., 2015). Images are not mirrored unless asked (``flip``), in training neither: a mirrored image can
    contradict its text ("the cup left of the plate") and makes letters unreadable.

    Args:
        size: height and width of the result, in pixels.
        mean: mean of each channel, for values in [0, 1].
        std: standard deviation of each channel.
        crop_scale: smallest and largest share of the area of a random crop; None: the centre, always the same.
        flip: probability of a mirrored image.
        interpolation: "bicubic" or "bilinear".

    Raises:
        ValueError: for a file that is missing, empty or not an image, and for tensors of another shape or type.
    """

    takes_path = True
    padding = None

    def __init__(
        self,
        size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        crop_scale: Sequence[float] | None = None,
        flip: float = 0.0,
        interpolation: str = "bicubic",
    ) -> None:
        require_positive("ImageTransform", size=size)
        require_choice("ImageTransform", "interpolation", interpolation, ("bicubic", "bilinear"))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(
                f"ImageTransform got mean={list(mean)} and std={list(std)}. Expected three values each, for red, green "
                "and blue. Repeat the value of a grey image three times."
            )
        self.size = size
        self.mean, self.std = list(mean), list(std)
        self.random = crop_scale is not None or flip > 0
        self._cut = _make_cut(size, crop_scale, flip, interpolation)

    def __call__(self, value: Any) -> Float[Tensor, "channel height width"]:
        import torchvision.transforms.v2.functional as F

        square = self._cut(_as_rgb(value))
        return F.normalize(F.to_dtype(square, torch.float32, scale=True), self.mean, self.std)

    def blank(self) -> Float[Tensor, "channel height width"]:
        """What stands in for an absent image."""
        return torch.zeros(3, self.size, self.size)


class _CentreSquare:
    """The largest centre square, resized."""

    def __init__(self, size: int, interpolation: str) -> None:
        self.size, self.interpolation = size, interpolation

    def __call__(self, image: Tensor) -> Tensor:
        import torchvision.transforms.v2.functional as F

        side = min(image.shape[-2:])
        cut = F.center_crop(image, [side, side])
        return F.resize(cut, [self.size, self.size], F.InterpolationMode(self.interpolation), antialias=True)


def _make_cut(size: int, crop_scale: Sequence[float] | None, flip: float, interpolation: str) -> Any:
    from torchvision.transforms import v2

    kind = v2.InterpolationMode(interpolation)
    crop = v2.RandomResizedCrop(size, scale=tuple(crop_scale), interpolation=kind) if crop_scale else None
    cut = crop or _CentreSquare(size, interpolation)
    return v2.Compose([cut, v2.RandomHorizontalFlip(flip)]) if flip else cut


def _as_rgb(value: Any) -> UInt8[Tensor, "channel height width"]:
    if isinstance(value, Tensor):
        return _from_tensor(value)
    if isinstance(value, str | Path):
        value = _read(Path(value))
    return _from_pil(_opened(value) if isinstance(value, bytes) else value)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'. Expected an image. Check the path and the folder it starts from.")
    return path.read_bytes()


def _opened(data: bytes) -> Any:
    """Bytes of a file -> PIL image. torchvision's own decoders are faster, but deprecated since 0.29."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ValueError("The image file is empty. Expected the bytes of an image. Copy or download it again.")
    try:
        return Image.open(BytesIO(data))
    except UnidentifiedImageError:
        raise ValueError(
            "The file is not an image that can be read. Expected JPEG, PNG, GIF or WebP. Convert it to one of them."
        ) from None
    except Image.DecompressionBombError:  # a small file that would unpack to gigabytes
        raise ValueError(
            "The image has too many pixels to be unpacked safely. Expected at most "
            f"{2 * (Image.MAX_IMAGE_PIXELS or 0)}. Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS to trust it."
        ) from None


def _from_pil(image: Any) -> Tensor:
    import torchvision.transforms.v2.functional as F
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise ValueError(
            f"The image is a {type(image).__name__}. Expected a path, bytes, a PIL image or a uint8 tensor. "
            "Turn an array into a tensor with torch.from_numpy(array).permute(2, 0, 1)."
        )
    try:
        image.load()
    except Exception:  # Pillow has many kinds of error for damaged files, SyntaxError among them
        raise ValueError(
            "The image breaks off or is damaged. Expected a whole file. Copy or download it again."
        ) from None
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits: the upper 8
        upright = upright.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if "transparency" in upright.info:
        upright = upright.convert("RGBA")
    return F.pil_to_tensor(upright.convert("RGB"))


def _from_tensor(image: Tensor) -> Tensor:
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] not in (1, 3):
        raise ValueError(
            f"The image is a tensor of shape {tuple(image.shape)} and dtype {image.dtype}. Expected (channel, height, "
            "width) with 1 or 3 channels, as torch.uint8 from 0 to 255. Use permute, or (image * 255).to(torch.uint8)."
        )
    return image.expand(3, -1, -1)
