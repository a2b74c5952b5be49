"""Sound files -> float32 (time,) at one sampling rate."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmfuse._checks import require_positive
from mmfuse._record import recorded


@recorded
class AudioTransform:
    """Decode a clip, mix its channels down to one, resample it and bring it to zero mean and unit variance.

    Takes the path of a wav, flac, mp3 or ogg file, or a pair ``(waveform, rate_hz)`` with a float waveform of shape
    ``(time,)`` or ``(channel, time)``. A constant clip becomes zeros.

    Args:
        rate_hz: sampling rate of the result, in samples a second.
        normalize: subtract the mean of the clip and divide by its standard deviation.
        min_samples: shortest clip that is accepted, in samples of the result.
        max_seconds: what comes after so many seconds is not read; None: the whole clip.

    Raises:
        ValueError: for a file that is missing, empty or no sound, and for clips that are too short or not finite.
    """

    takes_path = True
    padding = 0.0
    random = False

    def __init__(
        self, rate_hz: int, *, normalize: bool = True, min_samples: int = 400, max_seconds: float | None = None
    ) -> None:
        require_positive("AudioTransform", rate_hz=rate_hz, min_samples=min_samples, max_seconds=max_seconds or 1)
        self.rate_hz = rate_hz
        self.normalize = normalize
        self.min_samples = min_samples
        self.max_seconds = max_seconds
        self._resamplers: dict[int, Any] = {}  # by the rate of the file: their filters are costly to make

    def __call__(self, value: Any) -> Float[Tensor, " time"]:
        channels, rate_hz = self._read(value)  # (channel, time)
        mono = self._resample(channels.mean(dim=0), rate_hz)
        self._require_sound(mono)
        return _normalized(mono) if self.normalize else mono

    def blank(self) -> Float[Tensor, " time"]:
        """What stands in for an absent clip."""
        return torch.zeros(self.min_samples)

    def _read(self, value: Any) -> tuple[Tensor, int]:
        if isinstance(value, str | Path):
            return _decode(Path(value), self.max_seconds)
        if not (isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], Tensor)):
            raise ValueError(
                f"The clip is a {type(value).__name__}. Expected the path of a sound file, or a pair "
                "(waveform, rate_hz). Give the sampling rate with the waveform: (torch.from_numpy(array), 16000)."
            )
        waveform, rate_hz = value[0], int(value[1])
        if waveform.dim() not in (1, 2) or not waveform.is_floating_point() or rate_hz <= 0:
            raise ValueError(
                f"The clip is a waveform of shape {tuple(waveform.shape)}, {waveform.dtype}, at {rate_hz} Hz. Expected "
                "floats of shape (time,) or (channel, time) at a rate above 0. Divide int16 samples by 32768."
            )
        end = None if self.max_seconds is None else round(self.max_seconds * rate_hz)
        return torch.atleast_2d(waveform)[:, :end].float(), rate_hz

    def _resample(self, mono: Tensor, rate_hz: int) -> Tensor:
        if rate_hz == self.rate_hz or not len(mono):
            return mono
        if rate_hz not in self._resamplers:
            from torchaudio.transforms import Resample

            self._resamplers[rate_hz] = Resample(rate_hz, self.rate_hz)
        return self._resamplers[rate_hz](mono)

    def _require_sound(self, mono: Tensor) -> None:
        if len(mono) < self.min_samples:
            ms = 1000 / self.rate_hz
            raise ValueError(
                f"The clip has {len(mono)} samples ({len(mono) * ms:.0f} ms) at {self.rate_hz} Hz. Expected at least "
                f"{self.min_samples} ({self.min_samples * ms:.0f} ms). Leave the clip out (None) or lengthen it."
            )
        if broken := int((~mono.isfinite()).sum()):
            raise ValueError(
                f"The clip has {broken} of {len(mono)} samples that are NaN or infinite. Expected finite samples. "
                "Write the file again from its source, or leave the clip out (None)."
            )


def _normalized(mono: Tensor) -> Tensor:
    """Zero mean and unit variance, as wav2vec2 was trained with; summed in float64, so that a constant gives zeros."""
    wide = mono.double()
    wide = wide - wide.mean()
    return (wide * (wide.square().mean() + 1e-7).rsqrt()).float()


def _decode(path: Path, max_seconds: float | None) -> tuple[Tensor, int]:
    """A file -> float32 (channel, time) and its rate in Hz."""
    import soundfile

    if not path.is_file():
        raise ValueError(f"There is no file '{path}'. Expected a clip. Check the path and the folder it starts from.")
    if not path.stat().st_size:
        raise ValueError("The sound file is empty (0 bytes). Expected a clip. Copy or record it again.")
    try:
        with soundfile.SoundFile(path) as file:
            frames = -1 if max_seconds is None else round(max_seconds * file.samplerate)
            samples = file.read(frames, dtype="float32", always_2d=True)
            return torch.from_numpy(samples).T, int(file.samplerate)
    except (soundfile.SoundFileError, RuntimeError):
        raise ValueError(
            "The file is not a clip that can be read, or it breaks off. Expected wav, flac, mp3 or ogg. "
            "Convert it to one of them, or copy it again."
        ) from None
