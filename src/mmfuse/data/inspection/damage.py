"""Sounds and videos decoded to their end, for damage that no header tells of."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from mmfuse.data.transforms._video_timeline import MAX_FRAMES, MAX_PIXELS, open_video, read_timeline, video_stream

_BLOCK = 2**16  # frames of sound at a time


def require_whole(value: Any, kind: str) -> None:
    """Raise ValueError if a decoder finds damage in the file of a sound or a video; other values are left alone.

    FLAC, MPEG-4 and H.264 check what they decode. In WAV there is nothing to check, and decoders of MP3, Ogg and VP8
    pass over most damage.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, tuple | list) and kind == "video":
        value = value[0]
    if kind == "audio" and isinstance(value, str | Path | bytes):
        _sound(value)
    elif kind == "video" and (isinstance(value, bytes) or _is_video(value)):
        _video(value)


def _is_video(value: Any) -> bool:
    return isinstance(value, Path) and value.suffix.lower() not in (".npy", ".npz")


def _sound(source: str | Path | bytes) -> None:
    import soundfile

    done = 0
    with soundfile.SoundFile(BytesIO(source) if isinstance(source, bytes) else source) as file:
        try:
            for block in file.blocks(_BLOCK):
                done += len(block)
        except (soundfile.LibsndfileError, RuntimeError):
            raise _damaged("sound", done / file.samplerate) from None
        if done < file.frames:
            raise _damaged("sound", done / file.samplerate)


def _video(source: Path | bytes) -> None:
    import av

    with open_video(source) as container:
        packets = len(read_timeline(container, video_stream(container, MAX_PIXELS, MAX_FRAMES), MAX_FRAMES).times)
    frames, seconds = 0, 0.0
    with open_video(source) as container:
        stream = video_stream(container, MAX_PIXELS, MAX_FRAMES)
        stream.codec_context.options = {"err_detect": "explode"}  # FFmpeg hides damage otherwise
        try:
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise _damaged("video", seconds)
                frames, seconds = frames + 1, frame.time or seconds
        except av.error.FFmpegError:
            raise _damaged("video", seconds) from None
    if frames < 0.9 * packets - 1:
        raise _damaged("video", seconds)


def _damaged(what: str, seconds: float) -> ValueError:
    return ValueError(
        f"The {what} is damaged after {seconds:.1f} seconds. Expected a whole file. Copy or download it again."
    )
