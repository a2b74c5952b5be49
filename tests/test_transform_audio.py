"""Sound as people have it: any rate, channels, format and container; what is cut, refused, and why."""

import io
import pathlib
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

from mmfuse.data.transforms import AudioTransform, _resample

SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"]


def tone(rate_hz, seconds=0.5, hz=440.0):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate_hz * seconds)) / rate_hz)


def peak_hz(wave, rate_hz):
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave))).abs()
    return float(spectrum.argmax()) * rate_hz / len(wave)


def packed(samples, rate_hz, format="WAV", subtype=None):
    """The bytes of a sound file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=format, subtype=subtype)
    return buffer.getvalue()


def relative_rms(got, expected):
    return float((got - expected).norm() / expected.norm())


@pytest.fixture(params=["soxr", "torchaudio"])
def resampler(request, monkeypatch):
    if request.param == "torchaudio":
        monkeypatch.setattr(_resample, "_soxr", lambda: None)
    else:
        pytest.importorskip("soxr")


@pytest.mark.parametrize(
    "rate_hz, end", [(8000, "wav"), (44100, "wav"), (16000, "flac"), (22050, "ogg"), (44100, "mp3")]
)
def test_a_tone_keeps_its_pitch_through_files_channels_and_rates(rate_hz, end, tmp_path):
    stereo = np.stack([tone(rate_hz), 0.2 * tone(rate_hz)], axis=1)
    soundfile.write(tmp_path / f"a.{end}", stereo, rate_hz)

    wave = AudioTransform(16000)(tmp_path / f"a.{end}")

    assert (wave.dtype, wave.dim()) == (torch.float32, 1)
    assert abs(len(wave) - 8000) < 1500  # mp3 adds some silence
    assert abs(peak_hz(wave, 16000) - 440) < 3
    torch.testing.assert_close(wave.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(wave.std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("from_hz, to_hz", [(44100, 16000), (8000, 16000), (48000, 22050), (44101, 16000), (11, 8000)])
def test_resampling_keeps_length_and_pitch(from_hz, to_hz, resampler):
    seconds = 1.0 if from_hz > 1000 else 100.0
    clip = (tone(from_hz, seconds, 440.0 if from_hz > 1000 else 1.0), from_hz)

    wave = AudioTransform(to_hz, normalize=False)(clip)

    assert abs(len(wave) - round(len(clip[0]) * to_hz / from_hz)) <= 1
    bin_hz = to_hz / len(wave)
    assert abs(peak_hz(wave, to_hz) - (440.0 if from_hz > 1000 else 1.0)) <= bin_hz


def test_both_resamplers_agree_where_there_is_sound(monkeypatch):
    pytest.importorskip("soxr")
    noise = np.random.default_rng(0).standard_normal(44100 * 2)
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(len(noise), 1 / 44100) > 0.85 * 8000] = 0  # up to 0.85 of the lower half rate
    clip = (np.fft.irfft(spectrum), 44100)
    transform = AudioTransform(16000, normalize=False)

    by_soxr = transform(clip)
    monkeypatch.setattr(_resample, "_soxr", lambda: None)
    by_torchaudio = transform(clip)

    assert relative_rms(by_torchaudio, by_soxr) < 0.003
    assert not torch.equal(by_torchaudio, by_soxr)


def test_filters_of_many_rates_are_not_all_kept(monkeypatch):
    monkeypatch.setattr(_resample, "_soxr", lambda: None)
    transform = AudioTransform(16000, min_samples=1)

    for rate_hz in range(8000, 8020):
        transform((torch.rand(100), rate_hz))

    assert len(transform._resampler._filters) == _resample.KEPT


@pytest.mark.parametrize("subtype", SUBTYPES)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_kind_of_wav_gives_the_mean_of_its_channels(subtype, channels, tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (3000, channels))
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype=subtype)
    expected = soundfile.read(tmp_path / "a.wav", dtype="float64", always_2d=True)[0].mean(axis=1)

    wave = AudioTransform(16000, normalize=False)(tmp_path / "a.wav")

    torch.testing.assert_close(wave, torch.from_numpy(expected).float(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("end", ["wav", "flac", "mp3", "ogg"])
def test_bytes_are_as_good_as_a_path(end, tmp_path):
    soundfile.write(tmp_path / f"a.{end}", tone(44100), 44100)
    data = (tmp_path / f"a.{end}").read_bytes()
    transform = AudioTransform(16000)

    expected = transform(tmp_path / f"a.{end}")

    for value in (data, bytearray(data), memoryview(data), {"bytes": data, "path": None}, str(tmp_path / f"a.{end}")):
        torch.testing.assert_close(transform(value), expected)


def test_a_waveform_with_its_rate_is_as_good_as_a_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(8000), 8000, subtype="FLOAT")
    array = tone(8000).astype(np.float32)
    read_only = array.copy()
    read_only.flags.writeable = False
    transform = AudioTransform(16000, normalize=False)

    expected = transform(tmp_path / "a.wav")

    for waveform in (array, read_only, array.astype(np.float64), array.tolist(), torch.from_numpy(array), [array] * 2):
        torch.testing.assert_close(transform((waveform, np.int64(8000))), expected)
        torch.testing.assert_close(transform({"array": waveform, "sampling_rate": 8000, "path": "a"}), expected)
    for whole in (np.int16(2**15 - 1), np.int32(2**31 - 1)):
        torch.testing.assert_close(transform(((array * whole).astype(whole.dtype), 8000)), expected, rtol=0, atol=1e-4)


def test_what_datasets_hands_out_as_a_decoder_is_read():
    class Samples:
        data, sample_rate = torch.rand(2, 8000), 8000

    class Decoder:
        def get_all_samples(self):
            return Samples()

    transform = AudioTransform(16000)

    torch.testing.assert_close(transform(Decoder()), transform((Samples.data, 8000)))


def test_a_constant_clip_becomes_zeros_and_a_long_one_is_cut(tmp_path):
    transform = AudioTransform(16000, max_seconds=0.25)
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)

    constant = transform((torch.full((16000,), 0.3), 16000))

    torch.testing.assert_close(constant, torch.zeros(4000), atol=1e-4, rtol=0)
    assert len(transform(tmp_path / "a.wav")) == 4000
    torch.testing.assert_close(transform.blank(), torch.zeros(400))


def test_what_is_cut_off_is_counted_in_samples_of_the_result(tmp_path):
    soundfile.write(tmp_path / "a.flac", tone(8000, 3.0), 8000)
    transform = AudioTransform(16000, max_seconds=1.0)

    clips, lost = transform.batch([tmp_path / "a.flac", (tone(44100, 1.5), 44100), (tone(16000, 0.5), 16000)])

    assert [len(clip) for clip in clips] == [16000, 16000, 8000]
    assert lost == [32000, 8000, 0]
    torch.testing.assert_close(clips[0], transform(tmp_path / "a.flac"))


def test_long_clips_come_in_blocks_that_join(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (1_200_000, 2))
    soundfile.write(tmp_path / "a.wav", samples, 16000)

    wave = AudioTransform(16000, normalize=False)(tmp_path / "a.wav")

    torch.testing.assert_close(wave, torch.from_numpy(samples.mean(axis=1)).float(), rtol=0, atol=1e-4)


def bomb():
    """A FLAC of a few hundred KB that unpacks to gigabytes: the header tells of 30 minutes of 8 channels."""
    return _with_frames(packed(np.zeros((48000, 8)), 48000, "FLAC"), 48000 * 1800)


def _with_frames(flac, frames):
    return flac[:21] + bytes([(flac[21] & 0xF0) | (frames >> 32)]) + struct.pack(">I", frames % 2**32) + flac[26:]


def _with_data_size(wav, size):
    at = wav.index(b"data") + 4
    return wav[:at] + struct.pack("<I", size) + wav[at + 4 :]


@pytest.mark.plain
def test_a_bomb_is_refused_by_its_header():
    data = bomb()

    tracemalloc.start()
    with pytest.raises(
        ValueError, match=r"86400000 frames of 8 channels at 48000 Hz\. Expected at most 100000000.*max_seconds"
    ):
        AudioTransform(16000)(data)
    with pytest.raises(ValueError, match=r"5000000 frames of 1 channels at 1 Hz\. Expected at most 100000000 samples"):
        AudioTransform(16000)((torch.zeros(5_000_000), 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 3e7
    assert len(AudioTransform(16000, max_seconds=0.5)(data)) == 8000


@pytest.mark.parametrize("size", [4294967040, 2_000_000_000, 20_000])
def test_a_wav_whose_header_lies_is_refused_and_a_stream_is_not(size):
    data = packed(tone(16000), 16000)
    assert AudioTransform(16000)(_with_data_size(data, 2**32 - 1)).shape == (8000,)

    with pytest.raises(
        ValueError, match=rf"breaks off: its header tells of {size} bytes of sound, but 16000 are there"
    ):
        AudioTransform(16000)(_with_data_size(data, size))


@pytest.mark.plain
@pytest.mark.parametrize("end", ["wav", "flac", "mp3"])
def test_a_file_that_breaks_off_is_refused(end, tmp_path):
    soundfile.write(tmp_path / f"a.{end}", np.random.default_rng(0).uniform(-0.5, 0.5, 48000), 16000)
    data = (tmp_path / f"a.{end}").read_bytes()
    (tmp_path / f"b.{end}").write_bytes(data[: len(data) // 2])

    for value in (data[: len(data) // 2], tmp_path / f"b.{end}"):
        with pytest.raises(ValueError, match=r"breaks off.*Expected.*opy it again"):
            AudioTransform(16000)(value)


@pytest.mark.plain
def test_says_what_is_wrong_with_a_clip(tmp_path):
    transform = AudioTransform(16000)
    broken = packed(np.array([np.nan, np.inf] + [0.0] * 998), 44100, subtype="FLOAT")
    (tmp_path / "zero.wav").touch()

    for value, message in [
        (packed(np.zeros(0), 16000), r"clip has 0 samples \(0 ms\) at 16000 Hz\. Expected at least 400 \(25 ms\)\. L"),
        ((torch.zeros(50), 16000), r"clip has 50 samples \(3\.12 ms\) at 16000 Hz\. Expected at least 400 \(25 ms\)"),
        (packed(tone(8000, 0.02), 8000), r"clip has 320 samples \(20 ms\).*Expected at least 400"),
        (broken, r"2 of 1000 samples that are NaN or infinite\. Expected finite.*Write"),
        ((np.array([np.nan] * 812 + [0.0] * 188), 16000), r"812 of 1000 samples that are NaN"),
        (
            (torch.full((1000,), 1e19), 16000),
            r"samples of up to 1e\+19\. Expected a waveform of about -1 to 1\. D",
        ),
        (b"hello, I am no sound" * 20, r"not a clip that can be read.*Expected wav, flac, mp3 or ogg\. Convert"),
        (packed(tone(16000), 16000)[:30], r"not a clip that can be read, or it breaks off.*copy it again"),
        (_with_frames(packed(tone(16000), 16000, "FLAC"), 0), r"does not tell how long.*Expected a whole file.*Write"),
        (tmp_path / "zero.wav", r"sound file is empty \(0 bytes\)\. Expected a clip\. Copy"),
        (b"", r"sound file is empty \(0 bytes\)\. Expected a clip\. Copy"),
        (tmp_path / "none.wav", r"no file '.*none\.wav'\. Expected a clip\. Check"),
        (tmp_path, r"no file '.*'\. Expected a clip\. Check"),
        (torch.zeros(1000), r"The clip is a Tensor\. Expected a path.*Give the sampling rate"),
        (7, r"The clip is a int\. Expected a path, the bytes of a sound file, or a pair"),
        ((torch.zeros(1000, dtype=torch.uint8), 16000), r"torch\.uint8, at 16000 Hz\. Expected floats, int16 or int32"),
        ((np.zeros((1000, 2)), 16000), r"shape \(1000, 2\).*Expected .*\(channel, time\), at most 64.*Transpose"),
        ((np.zeros(1000), 0), r"at 0 Hz\. Expected .* at a rate above 0\..*give the rate"),
        ((["a", "b"], 16000), r"pair of a list and a rate\. Expected numbers.*numpy\.stack"),
        (([[0.1], [0.1, 0.2]], 16000), r"pair of a list and a rate\. Expected numbers.*one length for each channel"),
        ({"bytes": None, "path": "/etc/passwd"}, r"mapping with \['path'\]\. Expected 'array' and.*Make the path"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            transform(value)
        assert len(str(caught.value)) < 400


@pytest.mark.plain
def test_another_rate_is_refused_if_asked_for():
    strict = AudioTransform(16000, resample=False)

    assert strict((tone(16000), 16000)).shape == (8000,)
    with pytest.raises(
        ValueError, match=r"rate of 8000 Hz\. Expected 16000 Hz, as resample=False\. Res.*resample=True"
    ):
        strict((tone(8000), 8000))


@pytest.mark.plain
def test_says_what_is_wrong_with_the_settings_of_a_clip():
    for wrong in ({"rate_hz": 0}, {"max_seconds": 0.0}, {"min_samples": 0}, {"max_samples": -1}):
        name, value = next(iter(wrong.items()))
        with pytest.raises(ValueError, match=rf"AudioTransform got {name}={value}\. Expected a number above 0"):
            AudioTransform(**{"rate_hz": 16000} | wrong)


def test_a_path_inside_a_mapping_is_read_where_the_table_has_looked_it_up(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000), 16000)

    wave = AudioTransform(16000)({"bytes": None, "path": pathlib.Path(tmp_path / "a.wav")})

    assert wave.shape == (8000,)
