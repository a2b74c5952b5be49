"""Sound files, their bytes, and arrays -> one channel in float32; sizes are read from the header first."""

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from mmfuse.data.transforms._files import require_file

# Whole numbers are read as such and scaled by us: 6 times faster than libsndfile's floats, to the same values.
WHOLE = {"PCM_16": ("int16", 2.0**-15), "PCM_24": ("int32", 2.0**-31), "PCM_32": ("int32", 2.0**-31)}
SCALE = {torch.int16: 2.0**-15, torch.int32: 2.0**-31}
BLOCK = 2**20  # values that are unpacked at once
MOST_CHANNELS = 64
FORMS = "a path, the bytes of a sound file, or a pair (waveform, rate_hz)"


@dataclass(frozen=True)
class Clip:
    """What was read of one source."""

    wave: Float[Tensor, " time"]
    rate_hz: int
    frames: int  # as many as the source has, read or not


@dataclass(frozen=True)
class Limits:
    """How much of a source may be unpacked."""

    rate_hz: int  # of the result, which may hold more samples than the source
    seconds: float | None
    values: int

    def frames(self, total: int, rate_hz: int, channels: int) -> int:
        """How many frames to read; ValueError if they are too many."""
        wanted = total if self.seconds is None else min(total, round(self.seconds * rate_hz))
        if max(wanted * channels, wanted * self.rate_hz // rate_hz) > self.values:
            raise ValueError(
                f"The clip would unpack to {wanted} frames of {channels} channels at {rate_hz} Hz. Expected at most "
                f"{self.values} samples, at {self.rate_hz} Hz too. Read its start with max_seconds, cut it, or raise "
                "max_samples if you trust it."
            )
        return wanted


def decode(value: Any, limits: Limits) -> Clip:
    """One clip from any of its forms: path, bytes, pair, or a mapping of Hugging Face's ``datasets``."""
    if isinstance(value, Mapping):
        value = _from_mapping(value)
    if isinstance(value, str | Path):
        path = require_file(value, "a clip")
        _require_some(path.stat().st_size)
        return _from_file(path, limits)
    if isinstance(value, bytes | bytearray | memoryview):
        _require_some(len(value))
        return _from_file(io.BytesIO(value), limits)
    if hasattr(value, "get_all_samples"):  # a decoder of torchcodec, which datasets hands out
        samples = value.get_all_samples()
        value = (samples.data, samples.sample_rate)
    if not (isinstance(value, tuple | list) and len(value) == 2 and _is_rate(value[1])):
        raise ValueError(
            f"The clip is a {type(value).__name__}. Expected {FORMS}. "
            "Give the sampling rate with the waveform: (array, 16000)."
        )
    return _from_array(value[0], round(float(value[1])), limits)


def measure(value: Any, limits: Limits) -> tuple[int, int]:
    """How many frames of a source would be read, and its sampling rate; of files and bytes, by the header alone."""
    import soundfile

    if isinstance(value, Mapping):
        value = _from_mapping(value)
    if not isinstance(value, str | Path | bytes | bytearray | memoryview):
        clip = decode(value, limits)
        return len(clip.wave), clip.rate_hz
    with soundfile.SoundFile(value if isinstance(value, str | Path) else io.BytesIO(value)) as file:
        return limits.frames(file.frames, file.samplerate, file.channels), int(file.samplerate)


def _require_some(size: int) -> None:
    if not size:
        raise ValueError("The sound file is empty (0 bytes). Expected a clip. Copy or record it again.")


def _is_rate(number: Any) -> bool:
    return isinstance(number, Real) and math.isfinite(number)


def _from_mapping(cell: Mapping[str, Any]) -> Any:
    if cell.get("array") is not None and cell.get("sampling_rate") is not None:
        return cell["array"], cell["sampling_rate"]
    if cell.get("bytes") is not None:
        return cell["bytes"]
    if isinstance(cell.get("path"), Path):
        return cell["path"]
    # A path inside a cell would go round the check that it stays in the folder of the table.
    raise ValueError(
        f"The clip is a mapping with {sorted(k for k, v in cell.items() if v is not None)}. Expected 'array' and "
        "'sampling_rate', or 'bytes'. Make the path itself the cell, so that it is looked up in the table's folder."
    )


def _from_file(source: Path | io.BytesIO, limits: Limits) -> Clip:
    import soundfile

    try:
        with soundfile.SoundFile(source) as file:
            _require_length(file)
            return Clip(_read(file, limits), int(file.samplerate), int(file.frames))
    except (soundfile.SoundFileError, RuntimeError, TypeError):
        raise ValueError(
            "The file is not a clip that can be read, or it breaks off. Expected wav, flac, mp3 or ogg. "
            "Convert it to one of them, or copy it again."
        ) from None


def _require_length(file: Any) -> None:
    """The log of libsndfile tells of a WAV that promises more bytes than it has; 2^32 - 1 stands for a stream."""
    found = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if found and found[1] != str(2**32 - 1):
        raise ValueError(
            f"The file breaks off: its header tells of {found[1]} bytes of sound, but {found[2]} are there. Expected a "
            "whole file. Copy it again, or write it anew with the length that it has."
        )
    if file.frames >= 2**62:  # a FLAC that was written to a pipe
        raise ValueError(
            "The header of the file does not tell how long the clip is. Expected a whole file, not a recorded stream. "
            "Write it again to a file, with ffmpeg -i old.flac new.flac for example."
        )


def _read(file: Any, limits: Limits) -> Float[Tensor, " time"]:
    """The frames that are wanted, in blocks, so that many channels are never in memory all at once."""
    wanted = limits.frames(file.frames, file.samplerate, file.channels)
    kind, scale = WHOLE.get(file.subtype, ("float32", 1.0))
    step, blocks, count = max(1, BLOCK // file.channels), [], 0
    while count < wanted:
        block = file.read(min(step, wanted - count), dtype=kind, always_2d=True)
        if not len(block):
            raise ValueError(
                f"The file breaks off after {count} of {file.frames} frames. Expected a whole file. Copy it again."
            )
        blocks.append(_mix(torch.from_numpy(block), scale))
        count += len(block)
    return blocks[0] if len(blocks) == 1 else torch.cat([torch.zeros(0), *blocks])


def _mix(block: Shaped[Tensor, "time channel"], scale: float) -> Float[Tensor, " time"]:
    channels = block.shape[1]
    if channels == 1:
        return block[:, 0].float() * scale
    return block.float() @ torch.full((channels,), scale / channels)


def _from_array(array: Any, rate_hz: int, limits: Limits) -> Clip:
    waveform = _as_tensor(array)
    scale = 1.0 if waveform.is_floating_point() else SCALE.get(waveform.dtype, 0.0)
    if waveform.dim() not in (1, 2) or not scale or rate_hz <= 0 or len(torch.atleast_2d(waveform)) > MOST_CHANNELS:
        raise ValueError(
            f"The clip is a waveform of shape {tuple(waveform.shape)}, {waveform.dtype}, at {rate_hz} Hz. Expected "
            f"floats, int16 or int32 of shape (time,) or (channel, time), at most {MOST_CHANNELS} channels, at a rate "
            "above 0. Transpose it, or give the rate of the recording."
        )
    channels = torch.atleast_2d(waveform)
    frames = limits.frames(channels.shape[1], rate_hz, len(channels))
    return Clip(_mix(channels[:, :frames].T, scale), rate_hz, channels.shape[1])


def _as_tensor(array: Any) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().cpu()
    try:
        return torch.from_numpy(np.array(array))  # a copy: what comes from a file may be read-only
    except (TypeError, ValueError):
        raise ValueError(
            f"The clip is a pair of a {type(array).__name__} and a rate. Expected numbers first, as a tensor, an array "
            "or a list of one length for each channel. Make them one: (numpy.stack(channels), 16000)."
        ) from None
