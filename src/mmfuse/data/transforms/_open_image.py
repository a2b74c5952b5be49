"""The path or the bytes of an image file -> its header, as a PIL image of which no pixel is decoded yet."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from mmfuse.data.transforms._files import require_file

# 200 MB while it is decoded. A phone makes 12 to 48 million.
MAX_PIXELS = 50_000_000
# Not all that Pillow reads: for EPS it starts another program.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
NO_IMAGES = {
    b"<svg": "It is a drawing (SVG). Export it as PNG.",
    b"<": "It is a web page or other marked-up text, not an image. Download the image itself.",
    b"{": "It is JSON, perhaps the message of a server. Download the image itself.",
    b"version https://git-lfs": "It is a pointer of Git LFS. Fetch the file itself: git lfs pull.",
    b"%PDF": "It is a PDF. Export its page as PNG.",
    b"%!PS": "It is PostScript. Export it as PNG.",
}


@contextmanager
def open_image(value: str | Path | bytes, max_pixels: int | None = MAX_PIXELS) -> Iterator[Any]:
    """A PIL image whose size and mode are known, and no more; the file is closed at the end.

    Args:
        value: path or bytes of a file.
        max_pixels: largest height times width; None: only Pillow's own limit.

    Raises:
        ValueError: the file is missing, empty, no image, or above the limit.
    """
    with (
        BytesIO(value) if isinstance(value, bytes) else require_file(value, "an image").open("rb") as file,
        _opened(file) as image,
    ):
        require_pixels(image.width, image.height, max_pixels)
        yield image


def require_pixels(width: int, height: int, max_pixels: int | None) -> None:
    """Raise ValueError for an image that would take too much memory: a small file can unpack to gigabytes."""
    if max_pixels is not None and width * height > max_pixels:
        raise ValueError(
            f"The image has {width} x {height} = {width * height} pixels. Expected at most {max_pixels}. "
            "Make it smaller, or raise max_pixels to trust it."
        )


def _opened(file: Any) -> Any:
    from PIL import Image

    try:
        return Image.open(file, formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(
            f"The image has more than {Image.MAX_IMAGE_PIXELS} pixels, Pillow's limit. Expected fewer. "
            "Make it smaller, or raise max_pixels and PIL.Image.MAX_IMAGE_PIXELS to trust it."
        ) from None
    except Exception:  # Pillow has many kinds of error for damaged headers
        raise _no_image(file) from None


def _no_image(file: Any) -> ValueError:
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(200).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        return ValueError("The image file is empty (0 bytes). Expected an image. Copy or download it again.")
    kind = next((text for begin, text in NO_IMAGES.items() if start.startswith(begin.lower())), None)
    return ValueError(
        f"The file is not an image that can be read ({size} bytes). Expected {', '.join(_formats()[:-1])} or "
        f"{_formats()[-1]}. {kind or 'Convert it to one of them, or copy or download it again.'}"
    )


@cache
def _formats() -> tuple[str, ...]:
    """Those that this build of Pillow knows."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
