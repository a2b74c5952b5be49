"""Video files -> those frames that are wanted, in the order in which they are shown."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

from mmfuse.data.transforms._video_timeline import (
    MAX_FRAMES,
    MAX_PIXELS,
    breaks_off,
    open_video,
    read_timeline,
    require_limits,
    video_stream,
)

# Decoders that can leave out a frame on which no other depends, and may be told so between two packets.
SKIPPING = ("h264", "hevc", "mpeg4")


class VideoFile:
    """An open clip: its ``timeline``, and its frames by index.

    Only what lies between a wanted frame and the keyframe before it is decoded.

    Args:
        source: path or bytes of a file.
        max_pixels: largest number of pixels of a frame.
        max_frames: largest number of frames.

    Raises:
        ValueError: the file is missing, empty, above a limit, breaks off, or holds no video.
        ImportError: PyAV is not installed.
    """

    def __init__(self, source: Path | bytes, *, max_pixels: int = MAX_PIXELS, max_frames: int = MAX_FRAMES) -> None:
        self.max_pixels = max_pixels
        self._container = open_video(source)
        try:
            self._stream = video_stream(self._container, max_pixels, max_frames)
            self._stream.codec_context.thread_count = 1  # a worker of the loader has one core
            self._stream.codec_context.options = {"max_pixels": str(max_pixels)}  # the size may change on the way
            self.timeline = read_timeline(self._container, self._stream, max_frames)
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()

    def scaler(self) -> Any:
        """What resizes frames and turns them into RGB; one for all, as it is costly to make."""
        from av.video.reformatter import VideoReformatter

        return VideoReformatter()

    def frames(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """The frames (of PyAV) with these indices, ascending; each once, with its index."""
        for key, group in groupby(sorted(set(indices)), self._keyframe):
            yield from self._group(key, list(group))

    def _keyframe(self, index: int) -> int:
        """Where decoding has to begin."""
        keys = self.timeline.keys
        return keys[max(0, bisect_right(keys, self.timeline.stamps[index]) - 1)]

    def _group(self, key: int, indices: list[int]) -> Iterator[tuple[int, Any]]:
        for start in (key, None):  # from the beginning, where the container cannot go to the keyframe
            found = self._shown(self._decoded(start, {self.timeline.stamps[i] for i in indices}), indices)
            if first := next(found, None):
                yield first
                yield from found
                return
        raise breaks_off(self.timeline.times[indices[0]], self.timeline.end)

    def _shown(self, decoded: Iterator[tuple[int, Any]], indices: list[int]) -> Iterator[tuple[int, Any]]:
        """The last frame shown at the time of each index. Nothing if the first frame comes after them."""
        stamps, todo, last = self.timeline.stamps, list(indices), None
        for stamp, frame in decoded:
            while todo and stamp > stamps[todo[0]] and last:
                yield todo.pop(0), last[1]
            if todo and stamp > stamps[todo[0]]:
                return
            last = (stamp, frame)
            if todo and stamp == stamps[todo[0]]:
                yield todo.pop(0), frame
            if not todo:
                return
        # At the end a packet may make no frame of its own: the one before stays. More than that is missing.
        if last and todo[-1] - bisect_right(stamps, last[0]) <= 1:
            yield from ((index, last[1]) for index in todo)
        elif last:
            raise breaks_off(self.timeline.times[todo[0]], self.timeline.end)

    def _decoded(self, start: int | None, wanted: set[int]) -> Iterator[tuple[int, Any]]:
        """Frames in the order in which they are shown, each with its stamp."""
        import av

        context, counted = self._stream.codec_context, self.timeline.counted
        skips = context.name in SKIPPING and not counted
        first = self.timeline.stamps[0] if start is None else start
        self._container.seek(min(0, first) if start is None or counted else first, stream=self._stream)
        count = 0
        try:
            for packet in self._container.demux(self._stream):
                if skips:
                    context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in wanted else "NONREF"
                for frame in packet.decode():
                    require_limits(0, frame.height, frame.width, max_pixels=self.max_pixels)
                    yield (count if counted else frame.pts), frame
                    count += 1
        except av.error.FFmpegError as error:
            raise ValueError(
                f"The video is damaged: {error.strerror}. Expected a whole file that can be decoded. Copy it again "
                "from its source, or convert it to mp4 (H.264)."
            ) from None
