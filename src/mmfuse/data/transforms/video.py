"""Video clips -> uint8 (time, channel, height, width): frames by time."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from mmfuse._checks import require_count, require_positive
from mmfuse._record import recorded
from mmfuse.data.transforms._arrays import read_array
from mmfuse.data.transforms._decode_video import VideoFile
from mmfuse.data.transforms._random_settings import require_chances, require_crop_scale
from mmfuse.data.transforms._video_cut import Cut, choose_cut, upright_size
from mmfuse.data.transforms._video_timeline import MAX_FRAMES, MAX_PIXELS, require_limits

MAX_BYTES = 2**31  # of an array file


@recorded
class VideoTransform:
    r"""Take frames of a clip by the time at which they are shown, and cut the same square out of each.

    The clip of :math:`D` seconds is divided into :math:`n` equal segments, and each gives the frame that is shown at
    its centre; with ``jitter`` at a random time within it (TSN, Wang et al., 2016, https://arxiv.org/abs/1608.00859):

    .. math:: t_i = \frac{i + u_i}{n} D, \qquad u_i = \tfrac{1}{2} \text{ or } u_i \sim U(0, 1)

    Takes the path or the bytes of an mp4, mov, mkv, webm, avi or gif file (with the extra ``video``); a uint8 array or
    tensor ``(time, channel, height, width)`` with 1 or 3 channels, or ``(time, height, width)``; the path or bytes of
    such an array as .npy or .npz; or a pair ``(frames, fps)``. Grey becomes RGB. The rotation that a phone has noted is
    applied. In evaluation the largest centre square is resized; with ``crop_scale`` one random part for all frames of
    the clip. Values stay integers from 0 to 255: the encoder normalises them, on its device.

    With ``num_frames`` every clip has so many; in one with fewer, frames repeat. With ``fps`` there are as many as the
    clip is long, at least one, and the rest of the batch is padding; of a clip longer than ``max_seconds`` its middle
    is taken, or with ``jitter`` a part from anywhere; ``batch`` counts the frames that are left out.

    Args:
        size: height and width of the result, in pixels.
        num_frames: number of frames, evenly over the clip.
        fps: frames of the result in a second, instead of ``num_frames``.
        max_seconds: longest part of a clip that ``fps`` takes.
        crop_scale: smallest and largest share of the area of a random crop; None: the centre, always the same.
        flip: probability that a clip is mirrored; actions that tell left from right do not bear it.
        jitter: random times within the segments, for training.
        max_pixels: largest number of pixels of a frame before it is cut.
        max_frames: largest number of frames of a clip.

    Raises:
        ValueError: for files that are missing, empty, damaged, above a limit or no videos, and for arrays of another
            shape or type.
        ImportError: for a video file without PyAV.
    """

    takes_path = True
    torch_only = True

    def __init__(  # noqa: PLR0913  what to take of time and of space, and two limits
        self,
        size: int,
        *,
        num_frames: int | None = None,
        fps: int | float | None = None,
        max_seconds: int | float = 60.0,
        crop_scale: Sequence[float] | None = None,
        flip: float = 0.0,
        jitter: bool = False,
        max_pixels: int = MAX_PIXELS,
        max_frames: int = MAX_FRAMES,
    ) -> None:
        if (num_frames is None) == (fps is None):
            raise ValueError(
                f"VideoTransform got num_frames={num_frames} and fps={fps}. Expected one of the two: frames "
                "in a clip, or frames a second. Give num_frames=8 for example."
            )
        require_count("VideoTransform", size=size, num_frames=1 if num_frames is None else num_frames)
        require_positive("VideoTransform", fps=1 if fps is None else fps, max_seconds=max_seconds)
        require_positive("VideoTransform", max_pixels=max_pixels, max_frames=max_frames)
        require_crop_scale("VideoTransform", crop_scale)
        require_chances("VideoTransform", flip=flip)
        if fps == math.inf:
            raise ValueError(
                "VideoTransform got fps=inf. Expected a finite number of frames a second. Try fps=2, or num_frames."
            )
        self.size, self.num_frames, self.fps, self.max_seconds = size, num_frames, fps, max_seconds
        self.crop_scale, self.flip, self.jitter = list(crop_scale) if crop_scale else None, flip, jitter
        self.max_pixels, self.max_frames = max_pixels, max_frames
        self.padding = None if num_frames else 0
        self.random = bool(jitter or crop_scale or flip)

    def __call__(self, value: Any) -> UInt8[Tensor, "time channel height width"]:
        return self.batch([value])[0][0]

    def batch(self, values: Sequence[Any]) -> tuple[list[Tensor], list[int]]:
        """All clips of a batch, and how many frames ``max_seconds`` has cut off each."""
        read = [self._read(value) for value in values]
        return [clip for clip, _ in read], [round(lost * (self.fps or 0)) for _, lost in read]

    def blank(self) -> UInt8[Tensor, "time channel height width"]:
        """What stands in for an absent clip."""
        return torch.zeros(self.num_frames or 1, 3, self.size, self.size, dtype=torch.uint8)

    def _read(self, value: Any) -> tuple[Tensor, float]:
        """A clip, and how many seconds of it are left out."""
        fps = None
        if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):  # of Hugging Face's datasets
            value = value["bytes"]
        if isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[1], Real):
            value, fps = value[0], float(value[1])
        if _is_video(value):
            return self._from_file(Path(value) if isinstance(value, str) else value)
        return self._from_array(value, fps)

    def _from_file(self, source: Any) -> tuple[Tensor, float]:
        with VideoFile(source, max_pixels=self.max_pixels, max_frames=self.max_frames) as video:
            times, lost = self._times(video.timeline.end)
            indices = _shown_at(times, video.timeline.times).tolist()
            cut, scaler, kept = None, video.scaler(), {}
            for index, frame in video.frames(indices):
                cut = cut or self._cut(*upright_size(frame))
                kept[index] = cut.of_frame(frame, scaler)
        return torch.stack([kept[index] for index in indices]), lost

    def _from_array(self, value: Any, fps: float | None) -> tuple[Tensor, float]:
        frames = _as_frames(value if isinstance(value, Tensor) else read_array(value, max_bytes=MAX_BYTES))
        height, width = frames.shape[-2:]
        require_limits(len(frames), height, width, max_frames=self.max_frames, max_pixels=self.max_pixels)
        if fps is None and self.fps is not None:
            raise ValueError(
                f"The clip is an array without a rate, but {self.fps:g} frames a second are asked for. Expected a pair "
                "(frames, fps). Give the rate of its frames with it, or use num_frames."
            )
        if fps is not None and not 0 < fps < math.inf:
            raise ValueError(f"The clip has fps={fps}. Expected its frames in a second, above 0. Measure its rate.")
        rate = float(fps or 1)
        times, lost = self._times(len(frames) / rate)
        indices = _shown_at(times, [i / rate for i in range(len(frames))])
        taken = frames[indices] if isinstance(frames, Tensor) else torch.from_numpy(frames[indices.numpy()])
        return self._cut(height, width).of_tensor(taken if taken.dim() == 4 else taken[:, None]), lost

    def _times(self, seconds: float) -> tuple[Tensor, float]:
        """When the wanted frames are shown, in seconds from the start of the clip, and how many seconds are cut off."""
        length, count = seconds, self.num_frames or 0
        if self.fps:
            length = min(seconds, self.max_seconds)
            count = max(1, math.floor(length * self.fps + 0.5))
        start = (seconds - length) * (float(torch.rand(())) if self.jitter else 0.5)
        within = torch.rand(count, dtype=torch.float64) if self.jitter else 0.5
        return start + (torch.arange(count, dtype=torch.float64) + within) * length / count, seconds - length

    def _cut(self, height: int, width: int) -> Cut:
        return choose_cut(height, width, self.size, crop_scale=self.crop_scale, flip=self.flip)


def _shown_at(times: Tensor, starts: Sequence[float]) -> Int[Tensor, " time"]:
    """The last frame that has begun at each time."""
    begun = torch.tensor(starts, dtype=torch.float64)
    return (torch.searchsorted(begun, times + 1e-6, right=True) - 1).clamp(0, len(starts) - 1)


def _is_video(value: Any) -> bool:
    """Whether this is a file of another kind than arrays."""
    if isinstance(value, bytes | bytearray | memoryview):
        return not bytes(value[:6]).startswith((b"\x93NUMPY", b"PK"))
    return isinstance(value, str | Path) and Path(value).suffix.lower() not in (".npy", ".npz")


def _as_frames(array: Any) -> Any:
    """An array or tensor of frames, if it is one."""
    good = array.ndim == 3 or (array.ndim == 4 and array.shape[1] in (1, 3))
    if not good or str(array.dtype).removeprefix("torch.") != "uint8" or not min(array.shape):
        raise ValueError(
            f"The clip is an array of shape {tuple(array.shape)} and type {array.dtype}. Expected (time, channel, "
            "height, width) with 1 or 3 channels, or (time, height, width), of uint8 from 0 to 255. Bring the channels "
            "to the second place, and scale the values: (255 * x).astype('uint8')."
        )
    return array
