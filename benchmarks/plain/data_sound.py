"""Sound, plainly: soundfile reads, torchaudio resamples with a filter that it makes in every call."""

import soundfile
import torch
import torchaudio.functional as F


def read(path, rate_hz, *, normalize=False, **filters):
    samples, found_hz = soundfile.read(path, dtype="float32")
    wave = torch.from_numpy(samples)
    if found_hz != rate_hz:
        wave = F.resample(wave, found_hz, rate_hz, **filters)
    return normalized(wave) if normalize else wave


def normalized(wave):
    return (wave - wave.mean()) / torch.sqrt(wave.var(correction=0) + 1e-7)
