"""wav2vec 2.0, HuBERT and WavLM with both norms: a clip is the same alone, padded, and beside broken ones."""

import math
from importlib.metadata import version

import pytest
import soundfile
import torch
from tiny_models import SPEECH_MODELS, clips, relative_error, require_finite_gradients, without_dropout

from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.data.transforms import AudioTransform
from mmfuse.encoders import SpeechEncoder

# WavLM hands torch a boolean mask and a float bias; Dynamo sees through a cache of transformers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning"),
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning"),
]
OLD = tuple(map(int, version("transformers").split(".")[:2])) < (5, 23)
LENGTHS = [8000, 3000, 401, 400, 5]
GROUP = [name for name in SPEECH_MODELS if name.endswith("group")]


def make(name, **options):
    torch.manual_seed(0)
    return SpeechEncoder.from_config(without_dropout(SPEECH_MODELS[name]), **options).eval()


def cut(batch, i):
    """One clip of a batch, without padding."""
    length = int(batch.mask[i].sum())
    return Input(batch.values[i : i + 1, :length], batch.present[i : i + 1])


@pytest.mark.parametrize("name", SPEECH_MODELS)
def test_padding_changes_nothing(name):
    encoder = make(name)
    separate = [encoder(cut(clips(LENGTHS), i)) for i in range(len(LENGTHS))]

    for padded in (1, 7, 50, 4000):
        features = encoder(clips(LENGTHS, max(LENGTHS) + padded, fill=1e4))
        for i, expected in enumerate(separate):
            real = features.mask[i]
            assert real.sum() == expected.mask.sum() == max(1, (LENGTHS[i] - 400) // 320 + 1)
            assert relative_error(features.tokens[i][real], expected.tokens[0]) <= 1e-5
            assert relative_error(features.pooled[i], expected.pooled[0]) <= 1e-5


@pytest.mark.parametrize("name", SPEECH_MODELS)
def test_equals_transformers_on_one_clip_without_padding(name):
    encoder, clip = make(name), clips([8000])

    features = encoder(clip)

    expected = encoder.backbone(clip.values).last_hidden_state
    assert relative_error(features.tokens, expected) <= 1e-5


@pytest.mark.parametrize("name", GROUP)
def test_transformers_alone_would_change_with_padding(name):
    """Without this difference the tests above would show nothing."""
    encoder, batch = make(name), clips([8000, 3000])

    plain = encoder.backbone(batch.values, attention_mask=batch.mask.long()).last_hidden_state[1]

    expected = encoder(cut(batch, 1)).tokens[0]
    assert relative_error(plain[: len(expected)], expected) > 0.01


@pytest.mark.parametrize("name", SPEECH_MODELS)
def test_every_parameter_learns_beside_nan_and_absent_clips(name):
    encoder = make(name).train()

    features = encoder(clips([4000, 900, 0, 30], 5000, fill=float("nan")))

    assert features.present.tolist() == [True, True, False, True]
    require_finite_gradients(encoder, features)


@pytest.mark.parametrize("name", SPEECH_MODELS)
def test_a_batch_without_any_clip_gives_finite_gradients(name):
    encoder = make(name).train()

    features = encoder(clips([0, 0], 100, fill=float("nan")))

    assert not features.mask.any()
    require_finite_gradients(encoder, features)


@pytest.mark.parametrize("name", SPEECH_MODELS)
def test_a_saved_model_gives_the_same_tokens_as_in_transformers(name, tmp_path):
    from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

    config = dict(SPEECH_MODELS[name])
    torch.manual_seed(3)
    theirs = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).eval()
    theirs.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=False, sampling_rate=8000).save_pretrained(tmp_path)
    clip = clips([4000])

    encoder = SpeechEncoder.from_pretrained(tmp_path).eval()

    assert relative_error(encoder(clip).tokens, theirs(clip.values).last_hidden_state) <= 1e-5
    assert (encoder.pretrained, encoder.normalize, encoder.rate_hz) == (True, False, 8000)
    assert not any("masked_spec_embed" in parameter for parameter, _ in encoder.named_parameters())


def test_the_transform_makes_what_the_encoder_takes(tmp_path):
    encoder = make("hubert-layer")

    transform = encoder.transform(train=True)

    assert isinstance(transform, AudioTransform)
    assert (transform.rate_hz, transform.normalize, transform.min_samples) == (16000, True, 400)
    assert encoder(Input(transform.blank()[None], torch.tensor([False]))).tokens.shape == (1, 1, 32)


@pytest.mark.parametrize("name", ["wav2vec2-group", "hubert-layer"])
@pytest.mark.parametrize("end, error", [("flac", 1e-6), ("mp3", 0.1), ("ogg", 0.1)])
@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_speech_is_the_same_from_every_kind_of_file(name, end, error, rate_hz, tmp_path):
    time = torch.arange(rate_hz) / rate_hz
    voice = sum(torch.sin(2 * math.pi * 140 * k * time) / k for k in range(1, 12))  # the harmonics of a low voice
    voice = 5000 * voice * (1.2 + torch.sin(2 * math.pi * 3 * time))
    stereo = torch.stack([voice, 0.5 * voice], dim=1).to(torch.int16).numpy()
    soundfile.write(tmp_path / "a.wav", stereo, rate_hz)
    # libsndfile writes broken mp3 files from stereo int16 (1.2.2).
    soundfile.write(tmp_path / f"a.{end}", stereo if end == "flac" else stereo / 32768, rate_hz)
    encoder = make(name)
    transform = encoder.transform()

    wav, other = (transform(tmp_path / f"a.{kind}")[None] for kind in ("wav", end))

    expected = encoder(Input(wav, torch.tensor([True])))
    features = encoder(Input(other, torch.tensor([True])))
    assert relative_error(features.pooled, expected.pooled) < error
    noise = encoder(Input(torch.randn_like(wav), torch.tensor([True])))
    assert relative_error(noise.pooled, expected.pooled) > 2 * error  # another sound is further away


@pytest.mark.parametrize("name", ["wav2vec2-group", "wav2vec2-layer", "wavlm-group"])
@pytest.mark.parametrize("freeze, layers", [("all", 2), (0, 0), (1, 1)])
def test_frozen_parts_do_not_learn_and_stay_in_evaluation_mode(name, freeze, layers):
    encoder = make(name, freeze=freeze).train()

    stack = encoder.backbone.encoder.layers
    frozen = [encoder.backbone.feature_extractor, encoder.backbone.feature_projection, *stack[:layers]]

    assert not any(part.training or any(p.requires_grad for p in part.parameters()) for part in frozen)
    assert all(part.training for part in stack[layers:])
    if freeze != "all":
        require_finite_gradients(encoder, encoder(clips([2000, 0])))


@pytest.mark.parametrize("name", ["wav2vec2-group", "wavlm-layer"])
def test_checkpointing_gives_the_same_gradients(name):
    plain, saving = make(name).train(), make(name, checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())

    for encoder in (plain, saving):
        encoder(clips([2000, 1000])).zeroed().tokens.square().sum().backward()

    assert all(layer.gradient_checkpointing for layer in saving.backbone.encoder.layers)
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.plain
@pytest.mark.skipif(OLD, reason="older layers of transformers are skipped by chance, which breaks the graph")
@pytest.mark.parametrize("name", SPEECH_MODELS)
@pytest.mark.parametrize("train", [False, True])
def test_compiles_whole(name, train):
    torch._dynamo.reset()
    encoder, batch = make(name).train(train), clips([2000, 0, 100])
    expected = encoder(batch)

    features = torch.compile(encoder, fullgraph=True, backend="eager")(batch)

    torch.testing.assert_close(features.zeroed().tokens, expected.zeroed().tokens)


@pytest.mark.parametrize("name", ["wav2vec2-group", "hubert-layer"])
def test_half_precision_stays_near(name):
    encoder, batch = make(name), clips([4000, 900, 0], 5000, fill=float("nan"))
    expected = encoder(batch).zeroed().pooled

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(batch)
    half = encoder.bfloat16()(batch)

    assert relative_error(features.zeroed().pooled.float(), expected) < 0.05
    assert relative_error(half.zeroed().pooled.float(), expected) < 0.05


def test_remembers_how_it_was_built():
    encoder = SpeechEncoder.preset("tiny", rate_hz=8000)

    again = SpeechEncoder(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    assert again.rate_hz == 8000


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(
        ValueError, match=r"model_type='bert'\. Expected one of \['wav2vec2', 'hubert', 'wavlm'\]\. Use"
    ):
        SpeechEncoder({"model_type": "bert"})
    with pytest.raises(ValueError, match=r"wavlm model with attention='sdpa'.*Expected a kernel.*Use attention=None"):
        make("wavlm-group", attention="sdpa")
    with pytest.raises(ValueError, match=r"freeze=9\. Expected .* number from 0 to 2"):
        make("hubert-group", freeze=9)
    with pytest.raises(ValueError, match=r"SpeechEncoder input has shape \(1, 2, 3\).*Expected \(batch, time\)\. Mix"):
        make("hubert-group")(Input(torch.zeros(1, 2, 3), torch.tensor([True])))
    with pytest.raises(ValueError, match=r"SpeechEncoder found neither a folder nor a hub model"):
        SpeechEncoder.from_pretrained("no/such")
