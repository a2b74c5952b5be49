"""The packets of a video file -> when its frames are shown, and whether the file is whole; nothing is decoded."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from mmfuse.data.transforms._files import require_file

MAX_PIXELS = 2**25  # of one frame: 8K
MAX_FRAMES = 200_000  # two hours
# FFmpeg also reads playlists (HLS, concat), which open other files and addresses: nothing but these containers.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif"


@dataclass(frozen=True)
class Timeline:
    """When the frames of a clip are shown, ascending.

    ``stamps`` are in the unit of the container; ``times`` and ``end``, where the last frame ends, in seconds from the
    first frame. ``keys`` are the stamps where decoding can begin. A ``counted`` clip has no stamps that can be trusted:
    its frames are numbered as they come.
    """

    stamps: list[int]
    times: list[float]
    end: float
    keys: list[int]
    counted: bool = False


def open_video(source: Path | bytes) -> Any:
    """The container of PyAV; nothing but the named file is ever opened."""
    try:
        import av
    except ImportError:
        raise ImportError(
            "Reading videos needs PyAV. Expected the package 'av'. Install it: pip install 'mmfuse[video]'."
        ) from None
    if isinstance(source, Path):
        require_file(source, "a clip")
    if not (source.stat().st_size if isinstance(source, Path) else len(source)):
        raise ValueError("The video file is empty (0 bytes). Expected a clip. Copy or record it again.")
    where: Any = f"file:{source}" if isinstance(source, Path) else BytesIO(source)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        return av.open(where, options=options)
    except (av.error.FFmpegError, ValueError):
        raise ValueError(
            "The file is not a video that can be read, or it breaks off. Expected a whole mp4, mov, mkv, webm, avi or "
            "gif. Convert it to mp4, or copy it again."
        ) from None


def video_stream(container: Any, max_pixels: int, max_frames: int) -> Any:
    """The first stream of moving pictures, if its header keeps to the limits."""
    streams = [s for s in container.streams.video if not s.disposition & type(s.disposition).attached_pic]
    if not streams:
        kinds = sorted({s.type for s in container.streams})
        raise ValueError(
            f"The file has no video, only {kinds}. Expected a stream of moving pictures. Give it to a modality that "
            "fits (AudioTransform for sound), or leave the clip out (None)."
        )
    stream = streams[0]
    height, width = stream.codec_context.height, stream.codec_context.width
    require_limits(stream.frames, height, width, max_frames=max_frames, max_pixels=max_pixels)
    return stream


def read_timeline(container: Any, stream: Any, max_frames: int) -> Timeline:
    """What the packets say: 3 microseconds each, about a fiftieth of decoding them."""
    packets, total = [], 0
    for packet in container.demux(stream):
        if packet.size:
            total += 1
            require_limits(total, 0, 0, max_frames=max_frames)
            if not packet.is_discard:  # cut off by an edit list
                packets.append((packet.pts, packet.duration or 0, packet.is_keyframe))
            broken = packet.is_corrupt
    if not packets:
        raise ValueError("The video has no frames. Expected at least one. Copy it again, or leave the clip out (None).")
    timeline = _timeline(container, stream, packets)
    if broken or total < 0.9 * stream.frames - 1 or _ends_early(timeline):
        raise breaks_off(timeline.times[-1], timeline.end)
    return timeline


def require_limits(
    frames: int, height: int, width: int, *, max_frames: int = MAX_FRAMES, max_pixels: int = MAX_PIXELS
) -> None:
    """Raise ValueError for a clip of too many frames, or of too large ones, to be decoded safely."""
    if frames > max_frames:
        raise ValueError(
            f"The video has {frames} frames or more. Expected at most {max_frames}. Cut it into clips, or raise "
            "max_frames to trust it."
        )
    if height * width > max_pixels:
        raise ValueError(
            f"The video has frames of {width} x {height} pixels. Expected at most {max_pixels} pixels in a frame. "
            "Scale it down, or raise max_pixels to trust it."
        )


def breaks_off(seconds: float, end: float) -> ValueError:
    """The error for a file that holds less than it says."""
    return ValueError(
        f"The video breaks off after {seconds:.1f} of {end:.1f} seconds. Expected a whole file. Copy or download it "
        "again, or write what is there to a new file (ffmpeg -i FILE -c copy NEW)."
    )


def _timeline(container: Any, stream: Any, packets: list[tuple[Any, int, bool]]) -> Timeline:
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    # AVI has no stamps: where frames are stored out of order, those that FFmpeg makes up are wrong.
    out_of_order = container.format.name == "avi" and stream.codec_context.has_b_frames
    if out_of_order or any(stamp is None for stamp, *_ in packets):
        count = len(packets)
        return Timeline(list(range(count)), [i / rate for i in range(count)], count / rate, [0], counted=True)
    unit = float(stream.time_base)
    stamps = sorted(stamp for stamp, *_ in packets)
    times = [(stamp - stamps[0]) * unit for stamp in stamps]
    _, duration, _ = max(packets, key=lambda packet: packet[0])
    end = max(times[-1] + (duration * unit or 1 / rate), _told_end(stream, stamps[0]))
    keys = sorted(stamp for stamp, _, is_key in packets if is_key)
    return Timeline(stamps, times, end, keys or stamps[:1])


def _told_end(stream: Any, first: int) -> float:
    """Seconds from the first frame to the end of the stream, as the container tells; 0 if it does not."""
    if stream.duration:
        return float((stream.start_time or 0) + stream.duration - first) * float(stream.time_base)
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")  # Matroska, as text
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - first * float(stream.time_base)
    except ValueError:
        return 0.0


def _ends_early(timeline: Timeline) -> bool:
    """The end that was told is far off. A still picture at the end may last long, but then others do so, too."""
    if timeline.counted or len(timeline.times) < 2:
        return False
    gap = max(after - before for before, after in zip(timeline.times, timeline.times[1:], strict=False))
    return timeline.end - timeline.times[-1] > 0.5 + 2 * gap
