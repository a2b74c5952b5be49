"""Waveforms from one sampling rate to another."""

import functools
from collections import OrderedDict
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

KEPT = 8  # filters of so many rates stay in memory


class Resampler:
    """To one rate from any other: by soxr (``pip install 'mmfuse[audio]'``) where it is installed, else by torchaudio.

    The two differ by less than 0.3 % (root of the mean square) below 0.85 of the lower of the two half rates; near the
    half rate their filters fall off differently. The result has ``ceil(time * to / from)`` samples.

    Args:
        rate_hz: sampling rate of the result.
    """

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self._filters: OrderedDict[int, Any] = OrderedDict()  # by the rate of the source: they are costly to make

    def __call__(self, wave: Float[Tensor, " time"], rate_hz: int) -> Float[Tensor, " resampled"]:
        if rate_hz == self.rate_hz or not len(wave):
            return wave
        if (soxr := _soxr()) is not None:
            made = torch.from_numpy(soxr.resample(wave.numpy(), rate_hz, self.rate_hz, "HQ"))
        else:
            made = self._filter(rate_hz)(wave)
        length = -(-len(wave) * self.rate_hz // rate_hz)
        return made[:length] if len(made) >= length else torch.cat([made, made.new_zeros(length - len(made))])

    def _filter(self, rate_hz: int) -> Any:
        """torchaudio's, with a width and rolloff that come near soxr's."""
        if rate_hz not in self._filters:
            from torchaudio.transforms import Resample

            # Rates without a common divisor would need a filter of gigabytes: 44101 Hz counts as a rate near it.
            ratio = Fraction(self.rate_hz, rate_hz).limit_denominator(1000)
            ratio = max(ratio, Fraction(1, 1000))
            made = Resample(ratio.denominator, ratio.numerator, lowpass_filter_width=16, rolloff=0.95)
            self._filters[rate_hz] = _InParts.of(made) or made
        self._filters.move_to_end(rate_hz)
        while len(self._filters) > KEPT:
            self._filters.popitem(last=False)
        return self._filters[rate_hz]


class _InParts:
    """A filter of torchaudio in half of its time: what is zero in it is left out of the product.

    Of its ``to`` phases each has the same few numbers that are not zero, one step later than the phase before. So a
    quarter of the phases reads a window that is much shorter than that of all.
    """

    def __init__(self, filters: Any) -> None:
        self._step, self._width = filters.orig_freq, filters.width
        self._phases = filters.new_freq
        self._parts = []
        for phases in filters.kernel[:, 0].chunk(4):
            used = (phases.abs() > 1e-9).any(dim=0).nonzero()
            first, end = int(used[0]), int(used[-1]) + 1
            self._parts.append((first, phases[:, first:end].T.contiguous()))

    @classmethod
    def of(cls, filters: Any) -> "_InParts | None":
        """None where windows would overlap: they would have to be copied."""
        made = cls(filters) if filters.orig_freq != filters.new_freq else None
        return made if made and all(len(part) <= made._step for _, part in made._parts) else None

    def __call__(self, wave: Float[Tensor, " time"]) -> Float[Tensor, " resampled"]:
        padded = pad(wave, (self._width, self._width + self._step))
        frames = len(wave) // self._step + 1
        made = [padded[start:].unfold(0, len(part), self._step)[:frames] @ part for start, part in self._parts]
        return torch.cat(made, dim=1).flatten()[: -(-len(wave) * self._phases // self._step)]


@functools.cache
def _soxr() -> Any:
    """The module, or None; asked once, as a failing import is slow."""
    try:
        import soxr
    except ImportError:
        return None
    return soxr
