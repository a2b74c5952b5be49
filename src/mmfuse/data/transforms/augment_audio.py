"""Random changes to a waveform (time,), for Augment."""

import torch
from jaxtyping import Float
from torch import Tensor

from mmfuse._checks import require_not_negative, require_share
from mmfuse._record import recorded


@recorded
class Gain:
    r"""Louder or softer, by a factor that is uniform in decibel.

    .. math:: y = 10^{g / 20} x, \qquad g \sim U(-\mathrm{db}, \mathrm{db})

    It comes after the normalisation of the transform, which would undo it. ``SpectrogramEncoder`` normalises its
    spectrogram as well, and hardly sees a gain.

    Args:
        db: largest change, in decibel; 6 doubles or halves the amplitude.
    """

    after = True

    def __init__(self, db: int | float) -> None:
        require_not_negative("Gain", db=db)
        self.db = db

    def __call__(self, wave: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
        return wave * 10 ** (_uniform(-self.db, self.db) / 20)


@recorded
class Noise:
    r"""White noise, so loud that the ratio of powers is uniform in decibel. Silence stays silent.

    .. math:: y = x + \sqrt{\overline{x^2} \cdot 10^{-s / 10}} \, n, \qquad
              s \sim U(\mathrm{low}, \mathrm{high}), \quad n_t \sim N(0, 1)

    Args:
        low_db: smallest ratio of signal to noise, in decibel; 0: equally loud.
        high_db: largest ratio.
    """

    def __init__(self, low_db: int | float, high_db: int | float) -> None:
        if not low_db <= high_db:
            raise ValueError(
                f"Noise got low_db={low_db} and high_db={high_db}. Expected low_db at most high_db, the clearer end. "
                f"Write Noise({high_db}, {low_db})."
            )
        self.low_db, self.high_db = low_db, high_db

    def __call__(self, wave: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
        ratio = 10 ** (_uniform(self.low_db, self.high_db) / 10)
        return wave + (wave.square().mean() / ratio).sqrt() * torch.randn_like(wave)


@recorded
class Shift:
    """Earlier or later, by a uniform share of the length; zeros fill up what opens, and the length stays.

    Args:
        share: largest shift, as a share of the clip.
    """

    def __init__(self, share: int | float) -> None:
        require_share("Shift", share=share)
        self.share = share

    def __call__(self, wave: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
        steps = round(_uniform(-self.share, self.share) * len(wave))
        moved = torch.zeros_like(wave)
        if steps >= 0:
            moved[steps:] = wave[: len(wave) - steps]
        else:
            moved[:steps] = wave[-steps:]
        return moved


def _uniform(low: int | float, high: int | float) -> float:
    return low + (high - low) * float(torch.rand(()))
