"""G20: sound read and resampled, against soundfile with torchaudio's function."""

from functools import partial

import soundfile
from common import Row
from data_files import clips, sound
from data_measure import Case, Setting, faster, hidden
from plain import data_sound

from mmfuse.data.transforms import AudioTransform
from mmfuse.data.transforms import _resample as resampling

RATE_HZ = 16_000
AS_OURS = {"lowpass_filter_width": 16, "rolloff": 0.95}  # what our transform asks of torchaudio where soxr is missing


def files(setting: Setting) -> list[Row]:
    """Five seconds of 44.1 kHz in each kind of file, to 16 kHz."""
    rows = []
    for ending in ("wav", "flac", "mp3", "ogg"):
        paths = clips(setting.place("sound"), ending, 1 if setting.quick else 4)
        for normalize in (False, True):
            name = f"sound, {ending}{', normalised' * normalize}: to soundfile and torchaudio"
            ours = _each(AudioTransform(RATE_HZ, normalize=normalize), paths)
            other = _each(partial(data_sound.read, rate_hz=RATE_HZ, normalize=normalize), paths)
            rows += faster(setting, ours, {name: (other, 1.6 if ending == "wav" else None)}, len(paths))
    ours = _each(AudioTransform(RATE_HZ, normalize=False), paths := clips(setting.place("sound"), "wav", 1))
    return rows + faster(setting, ours, {"sound, wav: to reading alone": (_each(_bare, paths), None)}, len(paths))


def without_soxr(setting: Setting) -> list[Row]:
    """The same wav files where soxr is not installed: torchaudio's filter is made once, and sharper than its own."""
    paths = clips(setting.place("sound"), "wav", 1 if setting.quick else 4)
    own = _each(partial(data_sound.read, rate_hz=RATE_HZ), paths)
    sharp = _each(partial(data_sound.read, rate_hz=RATE_HZ, **AS_OURS), paths)
    others = {
        "sound, wav, without soxr: to torchaudio": (own, 1.6),
        "sound, wav, without soxr: to torchaudio with the filter of ours": (sharp, 1.6),
    }
    with hidden(resampling, "_soxr"):
        return faster(setting, _each(AudioTransform(RATE_HZ, normalize=False), paths), others, len(paths))


def normalisation(setting: Setting) -> list[Row]:
    """Zero mean and unit variance of a batch of clips, against the feature extractor of wav2vec2."""
    from transformers import Wav2Vec2FeatureExtractor

    extractor = Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=RATE_HZ, do_normalize=True)
    transform = AudioTransform(RATE_HZ)
    arrays = [sound(5, RATE_HZ, seed=number) for number in range(2 if setting.quick else 16)]
    pairs = [(array, RATE_HZ) for array in arrays]
    apart = abs(transform(pairs[0]).numpy() - extractor(arrays[0], sampling_rate=RATE_HZ).input_values[0]).max()
    if not apart < 1e-3:
        raise AssertionError(f"a clip differs from the feature extractor's by {apart:.1e}")
    name = "sound, arrays at 16 kHz: to the feature extractor of transformers"
    other = partial(extractor, arrays, sampling_rate=RATE_HZ)
    return faster(setting, partial(transform.batch, pairs), {name: (other, None)}, len(arrays))


def _bare(path) -> None:
    soundfile.read(path, dtype="float32")


def _each(run, values):
    def runs() -> None:
        for value in values:
            run(value)

    return runs


CASES: dict[str, Case] = {"sound": files, "sound without soxr": without_soxr, "sound normalised": normalisation}
