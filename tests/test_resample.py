"""Resampling without soxr: torchaudio's filter in parts is torchaudio's filter."""

from math import gcd

import pytest
import torch

from mmfuse.data.transforms import _resample
from mmfuse.data.transforms._resample import Resampler


@pytest.mark.parametrize("length", [1, 50, 441, 7000])
@pytest.mark.parametrize("rates", [(44_100, 16_000), (22_050, 16_000), (16_000, 22_050), (11_025, 8000)])
def test_a_filter_in_parts_gives_what_torchaudio_gives(rates, length, monkeypatch):
    from torchaudio.transforms import Resample

    monkeypatch.setattr(_resample, "_soxr", lambda: None)
    wave = torch.randn(length)

    made = Resampler(rates[1])(wave, rates[0])

    expected = Resample(*rates, lowpass_filter_width=16, rolloff=0.95)(wave)
    assert made.shape == (-(-length * rates[1] // rates[0]),)
    torch.testing.assert_close(made, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("rates", [(44_100, 16_000), (48_000, 16_000), (8000, 16_000)])
def test_only_windows_that_do_not_overlap_are_cut_into_parts(rates, monkeypatch):
    monkeypatch.setattr(_resample, "_soxr", lambda: None)
    resampler = Resampler(rates[1])

    resampler(torch.randn(1000), rates[0])

    step = rates[0] // gcd(*rates)
    assert isinstance(resampler._filters[rates[0]], _resample._InParts) == (step == 441)


def test_a_rate_that_rounds_to_that_of_the_result_leaves_the_wave(monkeypatch):
    monkeypatch.setattr(_resample, "_soxr", lambda: None)
    wave = torch.randn(1000)

    assert torch.equal(Resampler(44_100)(wave, 44_101), wave)
