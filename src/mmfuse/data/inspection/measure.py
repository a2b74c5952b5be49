"""One value of a modality -> its sizes, from the header of its file wherever that tells them."""

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.data.inspection.damage import require_whole
from mmfuse.data.inspection.plan import Modality
from mmfuse.data.transforms._arrays import MAX_BYTES, read_array, read_steps
from mmfuse.data.transforms._decode_audio import Limits, decode
from mmfuse.data.transforms._decode_image import Picture
from mmfuse.data.transforms._open_image import open_image
from mmfuse.data.transforms._series_cells import read_guessing, read_series
from mmfuse.data.transforms._series_checks import require_growing
from mmfuse.data.transforms._video_timeline import MAX_FRAMES, MAX_PIXELS, open_video, read_timeline, video_stream
from mmfuse.data.transforms.text import as_text

Measured = dict[str, float | str]  # numbers have a spread, words are counted


def measure(value: Any, modality: Modality) -> Measured:
    """The sizes of a value. With a transform it is read as in training, too.

    Raises:
        ValueError: it cannot be read.
    """
    known = MEASURES.get(modality.kind)
    found = known(value, modality.transform) if known else {}
    if modality.whole:
        require_whole(value, modality.kind)
    if modality.transform is not None:
        found |= _try_transform(value, modality)
    return found


def _try_transform(value: Any, modality: Modality) -> Measured:
    """What training would refuse is refused; what it would cut off is counted."""
    transform, lost = modality.transform, 0
    if hasattr(transform, "batch"):
        tensors, losses = transform.batch([value])
        made, lost = tensors[0], int(losses[0])
    else:
        made = transform(value)
    if made.is_floating_point() and not bool(made.isfinite().all()):
        raise ValueError("It holds values that are NaN or infinite. Expected finite values. Write it again.")
    found: Measured = {}
    if modality.kind == "text":
        found["tokens"] = float(len(made) + lost)
    elif modality.kind == "other":
        found["shape"] = str(tuple(made.shape))
    if transform.padding is not None:
        found["cut off"] = float(lost)
    return found


def _image(value: Any, transform: Any) -> Measured:
    if isinstance(value, str | Path | bytes):
        with open_image(value) as image:
            found = _picture_size(image)
            if transform is None:
                _decode_small(image)
        return found
    if hasattr(value, "mode"):
        return _picture_size(value)
    shape, dtype = tuple(getattr(value, "shape", ())), getattr(value, "dtype", type(value).__name__)
    if len(shape) not in (2, 3):
        raise ValueError(f"The image is of shape {shape}. Expected (channel, height, width). Reshape it.")
    return {"width": float(shape[-1]), "height": float(shape[-2]), "mode": f"{'x'.join(map(str, shape[:-2]))} {dtype}"}


def _picture_size(image: Any) -> Measured:
    upright = Picture(image)
    return {"width": float(upright.width), "height": float(upright.height), "mode": str(image.mode)}


def _decode_small(image: Any) -> None:
    """Find damage: a JPEG at an eighth of its size, for which every byte of it is read as well."""
    kind = image.format
    image.draft("RGB", (1, 1))
    try:
        image.load()
    except Exception:  # Pillow has many kinds of error for damaged files
        raise ValueError(
            f"The {kind} breaks off or is damaged. Expected a whole file. Copy or download it again."
        ) from None


def _audio(value: Any, transform: Any) -> Measured:  # noqa: ARG001
    clip = decode(value, Limits(rate_hz=1, seconds=0.0, values=2**62))  # the header only
    if not clip.frames:
        raise ValueError("The clip has no samples. Expected at least one. Leave the cell empty, or record it again.")
    found: Measured = {"seconds": clip.frames / clip.rate_hz, "rate_hz": str(clip.rate_hz)}
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | Path | bytes):
        import soundfile

        with soundfile.SoundFile(BytesIO(value) if isinstance(value, bytes) else value) as file:
            found["channels"] = str(file.channels)
    elif isinstance(value, tuple | list):
        axes = np.shape(value[0])
        found["channels"] = str(axes[0] if len(axes) > 1 else 1)
    return found


def _text(value: Any, transform: Any) -> Measured:  # noqa: ARG001  letters and words are counted of all rows
    for text in value.values() if isinstance(value, Mapping) else [value]:
        if text is not None:
            as_text(text)
    return {}


def _series(value: Any, transform: Any) -> Measured:
    if transform is None:
        (channels, seconds, names), times = read_guessing(value, MAX_BYTES)
    else:
        times = transform.times
        channels, seconds, names = read_series(value, times, MAX_BYTES)
    if not channels.size:
        raise ValueError(
            f"The series has shape {channels.shape}: no step. Expected at least one. Leave the cell empty."
        )
    if infinite := int(np.isinf(channels).sum()):
        raise ValueError(f"The series has {infinite} infinite values. Expected finite ones, or NaN where none is.")
    if seconds is not None:
        require_growing(seconds)
    found: Measured = {"steps": float(len(channels)), "channels": str(channels.shape[1])}
    found["missing values"] = float(np.isnan(channels).sum())
    found |= _columns(channels, names, times)
    if seconds is not None and len(seconds) > 1:
        found["rate_hz"] = float((len(seconds) - 1) / (seconds[-1] - seconds[0]))
        found["longest gap in s"] = float(np.diff(seconds).max())
    return found


def _columns(channels: Any, names: list[str] | None, times: int | str | None) -> Measured:
    """What the columns of a series are called, and which holds the times, or could."""
    found: Measured = {"columns": ", ".join(sorted(names))} if names else {}
    if times is not None:
        return found | {"times": repr(times)}
    grows = channels.shape[1] > 1 and bool((np.diff(channels[:, 0]) > 0).all())
    return found | ({"first column": "only grows"} if grows else {})


def _video(value: Any, transform: Any) -> Measured:
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]
    fps = getattr(transform, "fps", None)
    if isinstance(value, tuple | list) and len(value) == 2:
        value, fps = value
    suffix = value.suffix.lower() if isinstance(value, Path) else ""
    if isinstance(value, Path | bytes) and suffix not in (".npy", ".npz"):
        container = open_video(value)
        with container:
            stream = video_stream(container, MAX_PIXELS, MAX_FRAMES)
            width, height = stream.codec_context.width, stream.codec_context.height
            timeline = read_timeline(container, stream, MAX_FRAMES)
        frames, seconds = len(timeline.times), timeline.end
    else:
        shape, (height, width) = _shape(value), _shape(value)[-2:]
        frames, seconds = shape[0], shape[0] / fps if fps else 0.0
    found: Measured = {"frames": float(frames), "width": float(width), "height": float(height)}
    return found | ({"seconds": seconds, "fps": frames / seconds} if seconds else {})


def _feature(value: Any, transform: Any) -> Measured:
    shape = _shape(value, getattr(transform, "key", None))
    return {"steps": float(shape[0]), "width": str(shape[1])} if len(shape) == 2 else {"shape": str(shape)}


def _shape(value: Any, key: str | None = None) -> tuple[int, ...]:
    """Of an array file its header, where it has one."""
    first, length = read_steps(value, slice(0, 1), key=key, max_bytes=MAX_BYTES)
    return (length, *first.shape[1:]) if first.ndim else ()


def points_of(value: Any, kind: str, transform: Any) -> Any:
    """A short array ``(time, channel)`` for a picture of a sound or a series."""
    if kind == "audio":
        return decode(value, Limits(rate_hz=1, seconds=60.0, values=2**24)).wave[:, None].numpy()
    if kind == "series":
        series = read_guessing(value, MAX_BYTES)[0] if transform is None else transform.steps(value)
        return series.channels
    array = np.asarray(read_array(value, key=getattr(transform, "key", None), max_bytes=MAX_BYTES), dtype=np.float64)
    return array.reshape(-1, 1) if array.ndim == 1 else array.reshape(len(array), -1)


MEASURES: Mapping[str, Callable[[Any, Any], Measured]] = {
    "image": _image,
    "audio": _audio,
    "text": _text,
    "series": _series,
    "video": _video,
    "feature": _feature,
}
