"""Log-mel encoder of our own: a clip is the same alone, padded, and beside broken ones."""

import math

import pytest
import torch
from tiny_models import clips, relative_error, require_finite_gradients

from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.data.transforms import AudioTransform
from mmfuse.encoders import SpectrogramEncoder
from mmfuse.layers.spec_augment import SpecAugment

LENGTHS = [8000, 3000, 401, 400, 5]
MODELS = {
    "convolutions": {"dim": 32, "num_mels": 40},
    "layers": {"dim": 64, "num_mels": 64, "num_layers": 2},
    "odd numbers": {"dim": 32, "num_mels": 20, "rate_hz": 8000, "window_ms": 32.0, "hop_ms": 12.5},
}


def make(name="convolutions", **options):
    torch.manual_seed(0)
    return SpectrogramEncoder(**MODELS[name] | options).eval()


def cut(batch, i):
    """One clip of a batch, without padding."""
    length = int(batch.mask[i].sum())
    return Input(batch.values[i : i + 1, :length], batch.present[i : i + 1])


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name):
    encoder = make(name)
    separate = [encoder(cut(clips(LENGTHS), i)) for i in range(len(LENGTHS))]

    for padded in (1, 7, 50, 4000):
        features = encoder(clips(LENGTHS, max(LENGTHS) + padded, fill=1e4))
        for i, expected in enumerate(separate):
            real = features.mask[i]
            assert real.sum() == expected.mask.sum()
            assert relative_error(features.tokens[i][real], expected.tokens[0]) <= 1e-5
            assert relative_error(features.pooled[i], expected.pooled[0]) <= 1e-5


def test_a_token_stands_for_four_frames():
    features = make()(clips([8000, 3000, 560, 559, 5, 0]))

    frames = [48, 17, 2, 1, 1, 0]
    assert features.mask.sum(dim=1).tolist() == [math.ceil(n / 4) for n in frames]


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns_beside_nan_and_absent_clips(name):
    encoder = make(name).train()

    features = encoder(clips([4000, 900, 0, 30], 5000, fill=float("nan")))

    assert features.present.tolist() == [True, True, False, True]
    require_finite_gradients(encoder, features)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_without_any_clip_gives_finite_gradients(name):
    encoder = make(name).train()

    features = encoder(clips([0, 0], 100, fill=float("nan")))

    assert not features.mask.any()
    require_finite_gradients(encoder, features)


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_a_constant_clip_stays_finite(level):
    encoder = make("layers").train()

    features = encoder(Input(torch.full((2, 4000), level), torch.tensor([True, True])))

    assert features.pooled.isfinite().all()
    require_finite_gradients(encoder, features)


def test_the_log_mel_equals_its_equation():
    from torchaudio.transforms import MelSpectrogram

    encoder = make().double()
    clip = clips([1000]).values.double()
    mask = torch.ones(1, 4, dtype=torch.bool)

    got = encoder._log_mel(clip, mask)[0]

    # One frame at a time, with the filters of torchaudio, which wants whole windows of the size of its transform.
    mel = MelSpectrogram(16000, n_fft=512, n_mels=40).double().mel_scale
    window = torch.hann_window(400, dtype=torch.float64)
    frames = [torch.fft.rfft(clip[0, s : s + 400] * window, 512).abs() ** 2 for s in (0, 160, 320, 480)]
    energies = torch.stack([torch.log(mel(f[:, None])[:, 0] + 1e-6) for f in frames])
    expected = (energies - energies.mean()) / (energies.var(correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


def test_tells_a_high_tone_from_a_low_one_by_the_band():
    encoder = make(rate_hz=16000)
    time = torch.arange(4000) / 16000
    tones = torch.stack([torch.sin(2 * math.pi * hz * time) for hz in (300.0, 3000.0)])

    mel = encoder._log_mel(tones, torch.ones(2, 23, dtype=torch.bool))

    low, high = mel.mean(dim=1).argmax(dim=-1).tolist()
    assert low < 10 < high


@pytest.mark.plain
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("train", [False, True])
def test_compiles_whole(name, train):
    torch._dynamo.reset()
    encoder, batch = make(name).train(train), clips([2000, 0, 100])
    expected = encoder(batch)

    features = torch.compile(encoder, fullgraph=True, backend="eager")(batch)

    torch.testing.assert_close(features.zeroed().tokens, expected.zeroed().tokens)


def test_spec_augment_hides_stretches_of_time_and_bands_in_training_only():
    torch.manual_seed(0)
    augment = SpecAugment(0.25, 6)
    values, mask = torch.ones(64, 40, 20), torch.arange(40) < torch.randint(4, 41, (64, 1))

    changed = augment(values, mask)

    assert augment.eval()(values, mask) is values
    assert set(changed.unique().tolist()) == {0.0, 1.0}
    frames = (changed == 0).all(dim=2)
    bands = (changed == 0).all(dim=1)
    assert not (frames & ~mask).any()  # the stretches lie within the clip
    assert (frames.sum(dim=1) <= 2 * (0.25 * mask.sum(dim=1)).floor()).all()
    assert bands.sum(dim=1).max() <= 12
    assert frames.sum(dim=1).float().std() > 0 and bands.sum(dim=1).float().std() > 0
    assert ((changed == 0) == (frames[:, :, None] | bands[:, None, :])).all()
    assert frames[:, 0].any() and bands[:, 0].any() and bands[:, -1].any()


def test_spec_augment_hides_the_same_whatever_the_padding():
    encoder = make(hide_time=0.3, hide_mels=10).train()
    results = []
    for padded in (0, 1, 50, 4000):
        torch.manual_seed(3)
        features = encoder(clips([8000, 3000, 0, 5], 8000 + padded, fill=float("nan")))
        results.append(features.zeroed().pooled)

    for pooled in results[1:]:
        assert relative_error(pooled, results[0]) <= 1e-5
    assert relative_error(make()(clips([8000, 3000, 0, 5])).zeroed().pooled, results[0]) > 0.01
    features = encoder(clips([8000, 3000, 0, 5], 8100, fill=float("nan")))
    require_finite_gradients(encoder, features)


def test_spec_augment_is_off_in_evaluation_and_has_no_parameters():
    encoder, plain = make(hide_time=0.3, hide_mels=10), make()

    assert encoder.load_state_dict(plain.state_dict())
    torch.testing.assert_close(encoder(clips([4000])).tokens, plain(clips([4000])).tokens)


@pytest.mark.plain
def test_spec_augment_compiles_whole():
    torch._dynamo.reset()
    encoder = make(hide_time=0.3, hide_mels=10).train()
    torch.manual_seed(0)
    expected = encoder(clips([2000, 0, 100]))
    torch.manual_seed(0)

    features = torch.compile(encoder, fullgraph=True, backend="eager")(clips([2000, 0, 100]))

    torch.testing.assert_close(features.zeroed().tokens, expected.zeroed().tokens)


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_stays_near(name):
    encoder, batch = make(name), clips([4000, 900, 0], 5000, fill=float("nan"))
    expected = encoder(batch).zeroed().pooled

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(batch)
    half = encoder.bfloat16()(batch)

    assert relative_error(features.zeroed().pooled.float(), expected) < 0.05
    assert relative_error(half.zeroed().pooled.float(), expected) < 0.05


def test_the_transform_makes_what_the_encoder_takes():
    encoder = make("odd numbers")

    transform = encoder.transform(train=True)

    assert isinstance(transform, AudioTransform)
    assert (transform.rate_hz, transform.min_samples) == (8000, 256)
    assert encoder(Input(transform.blank()[None], torch.tensor([False]))).tokens.shape == (1, 1, 32)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_remembers_how_it_was_built(preset):
    encoder = SpectrogramEncoder.preset(preset, rate_hz=8000, num_mels=32)

    again = SpectrogramEncoder(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    assert not again.pretrained


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"cannot fill \d+ of num_mels=400 bands.*Expected bands.*Use fewer bands"):
        SpectrogramEncoder(num_mels=400)
    with pytest.raises(ValueError, match=r"SpectrogramEncoder got dim=0\. Expected a number above 0\. Choose"):
        SpectrogramEncoder(0)
    with pytest.raises(ValueError, match=r"dim=40 into heads of 32.*Expected a multiple of 32.*Choose dim=64"):
        SpectrogramEncoder(40, num_layers=1)
    with pytest.raises(ValueError, match=r"SpectrogramEncoder got hide_time=1\.5\. Expected a share from 0 to below 1"):
        SpectrogramEncoder(hide_time=1.5)
    with pytest.raises(ValueError, match=r"SpectrogramEncoder got hide_mels=-1.*Expected 0 or more"):
        SpectrogramEncoder(hide_mels=-1)
    with pytest.raises(ValueError, match=r"has no preset 'large'\. Expected one of \['small', 'tiny'\]"):
        SpectrogramEncoder.preset("large")
    with pytest.raises(
        ValueError, match=r"SpectrogramEncoder input has shape \(1, 2, 3\).*Expected \(batch, time\)\. Mix"
    ):
        make()(Input(torch.zeros(1, 2, 3), torch.tensor([True])))
