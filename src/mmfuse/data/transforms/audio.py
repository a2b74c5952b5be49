"""Sound -> float32 (time,) at one sampling rate."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmfuse._checks import require_positive
from mmfuse._record import recorded
from mmfuse.data.transforms._decode_audio import Clip, Limits, decode, measure
from mmfuse.data.transforms._resample import Resampler


@recorded
class AudioTransform:
    """Decode a clip, mix its channels down to one, resample it and bring it to zero mean and unit variance.

    Takes the path or the bytes of a wav, flac, mp3 or ogg file; a pair ``(waveform, rate_hz)``, a tensor or array of
    floats, int16 or int32, of shape ``(time,)`` or ``(channel, time)``; or a mapping of Hugging Face's ``datasets``
    with ``array`` and ``sampling_rate``, or with ``bytes``. A constant clip becomes zeros.

    Resampling is by soxr where it is installed (``pip install 'mmfuse[audio]'``), else by torchaudio, with a result
    that differs by less than 0.3 % except near the half of the lower rate. An mp3 or ogg file that was cut at a whole
    packet cannot be told from a shorter one; other files that break off are refused.

    Args:
        rate_hz: sampling rate of the result, in samples a second.
        normalize: subtract the mean of the clip and divide by its standard deviation.
        min_samples: shortest clip that is accepted, in samples of the result.
        max_seconds: what comes after so many seconds is not read, and counted by ``batch``; None: the whole clip.
        resample: bring clips of another rate to ``rate_hz``; False: they are refused.
        max_samples: most samples that a clip may unpack to, all channels together, told by its header before it is
            read; the default is 1.7 hours at 16 kHz.

    Raises:
        ValueError: for a file that is missing, empty, too large, broken or no sound, and for clips that are too short
            or not finite.
    """

    takes_path = True
    finite = True
    padding = 0.0
    random = False

    def __init__(
        self,
        rate_hz: int,
        *,
        normalize: bool = True,
        min_samples: int = 400,
        max_seconds: float | None = None,
        resample: bool = True,
        max_samples: int = 100_000_000,
    ) -> None:
        require_positive("AudioTransform", rate_hz=rate_hz, min_samples=min_samples, max_samples=max_samples)
        require_positive("AudioTransform", max_seconds=1 if max_seconds is None else max_seconds)
        self.rate_hz = rate_hz
        self.normalize = normalize
        self.min_samples = min_samples
        self.max_seconds = max_seconds
        self.resample = resample
        self.max_samples = max_samples
        self._resampler = Resampler(rate_hz)

    def __call__(self, value: Any) -> Float[Tensor, " time"]:
        return self.batch([value])[0][0]

    def batch(self, values: Sequence[Any]) -> tuple[list[Tensor], list[int]]:
        """All clips of a batch, and how many samples, at the rate of the result, ``max_seconds`` has cut off each."""
        waves, lost = self.raw(values)
        return [self.finish(wave) for wave in waves], lost

    def lengths(self, values: Sequence[Any]) -> list[int]:
        """How many samples each clip becomes, at the rate of the result, told by its header."""
        limits = Limits(self.rate_hz, self.max_seconds, self.max_samples)
        return [
            -(-frames * self.rate_hz // rate_hz) for frames, rate_hz in (measure(value, limits) for value in values)
        ]

    def raw(self, values: Sequence[Any]) -> tuple[list[Tensor], list[int]]:
        """As ``batch``, before the normalisation."""
        read = [self._read(value) for value in values]
        return [wave for wave, _ in read], [lost for _, lost in read]

    def finish(self, wave: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
        """The normalisation, if it is asked for."""
        return _normalized(wave) if self.normalize else wave

    def blank(self) -> Float[Tensor, " time"]:
        """What stands in for an absent clip."""
        return torch.zeros(self.min_samples)

    def _read(self, value: Any) -> tuple[Tensor, int]:
        clip = decode(value, Limits(self.rate_hz, self.max_seconds, self.max_samples))
        _require_finite(clip.wave)  # before resampling, which would spread one NaN over its neighbours
        self._require_rate(clip)
        wave = self._resampler(clip.wave, clip.rate_hz)
        if len(wave) < self.min_samples:
            ms = 1000 / self.rate_hz
            raise ValueError(
                f"The clip has {len(wave)} samples ({len(wave) * ms:.3g} ms) at {self.rate_hz} Hz. Expected at least "
                f"{self.min_samples} ({self.min_samples * ms:.3g} ms). Leave the clip out (None) or lengthen it."
            )
        return wave, (clip.frames - len(clip.wave)) * self.rate_hz // clip.rate_hz

    def _require_rate(self, clip: Clip) -> None:
        if clip.rate_hz != self.rate_hz and not self.resample:
            raise ValueError(
                f"The clip has a sampling rate of {clip.rate_hz} Hz. Expected {self.rate_hz} Hz, as resample=False. "
                "Resample the file, or use AudioTransform(..., resample=True)."
            )


def _require_finite(wave: Tensor) -> None:
    """Raise ValueError unless all that is made of it will be finite, too: filtered, and divided by its deviation."""
    if math.isfinite(wave.dot(wave)):  # 30 times faster than to look at each
        return
    if broken := int((~wave.isfinite()).sum()):
        raise ValueError(
            f"The clip has {broken} of {len(wave)} samples that are NaN or infinite. Expected finite samples. "
            "Write the file again from its source, or leave the clip out (None)."
        )
    raise ValueError(
        f"The clip has samples of up to {float(wave.abs().max()):.3g}. Expected a waveform of about -1 to 1. "
        "Divide it by its largest sample, or leave the clip out (None)."
    )


def _normalized(wave: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
    """Zero mean and unit variance, as wav2vec2 was trained with. The mean is taken twice: a constant gives zeros."""
    centred = wave - wave.mean()
    centred -= centred.mean()
    return centred.mul_((centred.square().mean() + 1e-7).rsqrt())
