"""Small pictures for the HTML page: of images as PNG, of sounds, series and histograms as SVG."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np

from mmfuse.data.inspection.findings import Spread
from mmfuse.data.inspection.measure import points_of
from mmfuse.data.inspection.plan import Modality
from mmfuse.data.transforms.image import ImageTransform
from mmfuse.data.transforms.video import VideoTransform

SIDE = 96  # of a picture, in pixels
POINTS = 120  # of a line
LINES = 4  # channels of a series
LETTERS = 160  # of a text


def preview(value: Any, modality: Modality) -> Mapping[str, Any] | None:
    """What is shown of a value; None where it cannot be shown."""
    try:
        if modality.kind == "text":
            texts = value.values() if isinstance(value, Mapping) else [value]
            shown = " | ".join(str(text) for text in texts if text is not None)
            return {"text": shown if len(shown) <= LETTERS else f"{shown[:LETTERS]}..."}
        if modality.kind in ("audio", "series", "feature"):
            return {"lines": _lines(points_of(value, modality.kind, modality.transform), modality.kind == "audio")}
        pixels = _pixels(value, modality)
        return None if pixels is None else {"png": _png(pixels)}
    except Exception:  # a value that training can read, or has refused: a picture of it is not worth an error
        return None


def draw_preview(picture: Mapping[str, Any]) -> str:
    """A preview as HTML. What comes from the data is escaped."""
    if "png" in picture:
        return f'<img src="data:image/png;base64,{picture["png"]}" width="{SIDE}" height="{SIDE}" alt="">'
    if "text" in picture:
        return f'<p class="text">{escape(picture["text"])}</p>'
    return _draw_lines(picture["lines"])


def draw_histogram(name: str, spread: Spread) -> str:
    """A histogram as HTML, its range below it."""
    top, width = max(spread.bars), 200 / len(spread.bars)
    bars = "".join(
        f'<rect x="{i * width:.1f}" y="{60 - 58 * bar / top:.1f}" width="{width * 0.9:.1f}" '
        f'height="{58 * bar / top:.1f}"><title>{bar}</title></rect>'
        for i, bar in enumerate(spread.bars)
    )
    return (
        f'<figure><svg viewBox="0 0 200 60" role="img">{bars}</svg>'
        f"<figcaption><b>{escape(name)}</b> {escape(str(spread))}</figcaption></figure>"
    )


def _pixels(value: Any, modality: Modality) -> Any:
    """uint8 (channel, height, width)."""
    if modality.kind == "image":
        return ImageTransform(SIDE)(value)
    if modality.kind == "video":
        return VideoTransform(SIDE, num_frames=1)(value)[0]
    made = modality.transform(value) if modality.transform is not None else None
    if made is None or made.dim() != 4 or str(made.dtype) != "torch.uint8":
        return None
    return ImageTransform(SIDE)(made[len(made) // 2])  # the middle slice of a volume


def _png(pixels: Any) -> str:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _lines(points: Any, envelope: bool) -> list[list[float | None]]:
    """A few channels with a few points each, from 0 to 1; a gap is None. A sound goes up and down between them."""
    few = np.asarray(points, dtype=np.float64)[:, :LINES]
    low, high = np.nanmin(few), np.nanmax(few)
    few = (few - low) / (high - low) if high > low else few * 0 + 0.5
    parts = [part for part in np.array_split(few, min(POINTS, len(few)))]
    if envelope:
        channels = [[end for part in parts for end in (part.min(), part.max())]]
    else:
        channels = np.array([part[len(part) // 2] for part in parts]).T.tolist()
    return [[None if np.isnan(y) else round(float(y), 4) for y in channel] for channel in channels]


def _draw_lines(lines: Sequence[Sequence[float | None]]) -> str:
    drawn = []
    for number, line in enumerate(lines):
        step = 200 / max(1, len(line) - 1)
        points: list[list[str]] = [[]]
        for i, y in enumerate(line):
            if y is None:
                points.append([])
            else:
                points[-1].append(f"{i * step:.1f},{58 - 56 * y:.1f}")
        drawn += [f'<polyline class="c{number}" points="{" ".join(part)}"/>' for part in points if part]
    return f'<svg viewBox="0 0 200 60" class="lines" role="img">{"".join(drawn)}</svg>'
