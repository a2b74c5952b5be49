"""Long recordings in windows: where they are cut, and a clip is the same alone, padded, and beside broken ones."""

import copy

import pytest
import torch
from tiny_models import SPEECH_MODELS, clips, relative_error, require_finite_gradients, without_dropout
from torch import nn

import mmfuse
from mmfuse import Input
from mmfuse.contracts import Features
from mmfuse.data.transforms import AudioTransform
from mmfuse.encoders import SpectrogramEncoder, SpeechEncoder, Windowed
from mmfuse.layers.masking import masked_mean

LENGTHS = [8000, 4001, 3000, 1600, 1599, 401, 5]


class Sums(nn.Module):
    """A user's encoder: the number of real samples, their sum, the first and the last."""

    dim, rate_hz = 4, 100

    def forward(self, input):
        mask = input.mask & input.present[:, None]
        values = input.zeroed().values
        last = values.gather(1, (mask.sum(dim=1, keepdim=True) - 1).clamp_min(0))
        pooled = torch.stack([mask.sum(dim=1).float(), values.sum(dim=1), values[:, 0], last[:, 0]], dim=1)
        return Features.from_pooled(pooled, input.present)


class Plain(nn.Module):
    """A user's encoder that is a mean of a linear map, and refuses less than 100 samples."""

    dim, rate_hz = 8, 16000

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 8)

    def forward(self, input):
        assert input.values.shape[1] >= 5
        mask = input.mask & input.present[:, None]
        tokens = self.linear(input.zeroed().values[..., None]).tanh()
        return Features(tokens, mask, masked_mean(tokens, mask))


def spectrogram():
    return SpectrogramEncoder(32, num_mels=40)


def speech():
    return SpeechEncoder.from_config(without_dropout(SPEECH_MODELS["wav2vec2-group"]))


INNER = {"spectrogram": spectrogram, "speech": speech, "own": Plain}


def make(name="spectrogram", **options):
    torch.manual_seed(0)
    return Windowed(INNER[name](), **{"seconds": 0.1, "num_layers": 1} | options).eval()


def cut(batch, i):
    """One clip of a batch, without padding."""
    length = int(batch.mask[i].sum())
    return Input(batch.values[i : i + 1, :length], batch.present[i : i + 1])


@pytest.mark.parametrize(
    "length, hop, starts",
    [
        (10, None, [0]),
        (7, None, [0]),
        (1, None, [0]),
        (11, None, [0, 1]),
        (30, None, [0, 10, 20]),
        (34, None, [0, 10, 20, 24]),
        (34, 0.04, [0, 4, 8, 12, 16, 20, 24]),
        (33, 0.04, [0, 4, 8, 12, 16, 20, 23]),
    ],
)
def test_windows_cover_the_clip_and_the_last_one_ends_with_it(length, hop, starts):
    encoder = Windowed(Sums(), seconds=0.1, hop=hop, num_layers=0)
    values = torch.arange(1.0, 51.0).repeat(2, 1)
    batch = Input(values, torch.tensor([True, True]), torch.arange(50) < torch.tensor([[length], [50]]))
    seen = []
    encoder.encoder.encoder.register_forward_hook(lambda module, args, out: seen.append(out.pooled))

    features = encoder(batch)

    assert features.mask[0].sum() == len(starts)
    size = min(length, 10)
    for start, window in zip(starts, seen[0], strict=False):
        expected = values[0, start : start + size]
        torch.testing.assert_close(window, torch.stack([torch.tensor(float(size)), expected.sum(), *expected[[0, -1]]]))


@pytest.mark.parametrize("hop", [None, 0.06])
@pytest.mark.parametrize("name", INNER)
def test_padding_changes_nothing(name, hop):
    encoder = make(name, hop=hop).double() if name == "own" else make(name, hop=hop)
    limit = 1e-10 if name == "own" else 1e-5
    dtype = torch.float64 if name == "own" else torch.float32
    batch = clips(LENGTHS)
    batch = Input(batch.values.to(dtype), batch.present, batch.mask)
    separate = [encoder(cut(batch, i)) for i in range(len(LENGTHS))]

    for padded, fill in ((1, 1e4), (7, float("nan")), (50, 1e4), (4000, float("nan"))):
        wide = clips(LENGTHS, max(LENGTHS) + padded, fill=fill)
        features = encoder(Input(wide.values.to(dtype), wide.present, wide.mask))
        for i, expected in enumerate(separate):
            real = features.mask[i]
            assert real.sum() == expected.mask.sum()
            assert relative_error(features.tokens[i][real], expected.tokens[0][expected.mask[0]]) <= limit
            assert relative_error(features.pooled[i], expected.pooled[0]) <= limit


def test_padding_that_counted_as_sound_would_change_the_result():
    encoder, batch = make(), clips(LENGTHS, 8100, fill=1e4)

    features = encoder(Input(batch.values, batch.present))

    assert relative_error(features.pooled[2], encoder(cut(clips(LENGTHS), 2)).pooled[0]) > 0.01


@pytest.mark.parametrize("name", INNER)
def test_every_parameter_learns_beside_nan_and_absent_clips(name):
    encoder = make(name).train()

    features = encoder(clips([4000, 900, 0, 30], 5000, fill=float("nan")))

    assert features.present.tolist() == [True, True, False, True]
    require_finite_gradients(encoder, features)


@pytest.mark.parametrize("name", INNER)
def test_a_batch_without_any_clip_gives_finite_gradients(name):
    encoder = make(name).train()

    features = encoder(clips([0, 0], 2000, fill=float("nan")))

    assert not features.mask.any()
    require_finite_gradients(encoder, features)


def test_the_order_of_the_windows_counts():
    encoder, batch = make(), clips([6400])
    turned = Input(batch.values.unflatten(1, (4, 1600)).flip(1).flatten(1), batch.present)

    assert relative_error(encoder(turned).pooled, encoder(batch).pooled) > 1e-3


@pytest.mark.parametrize("name", INNER)
def test_half_precision_stays_near(name):
    encoder, batch = make(name), clips([4000, 900, 0], 5000, fill=float("nan"))
    expected = encoder(batch).zeroed().pooled

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(batch)

    assert relative_error(features.zeroed().pooled.float(), expected) < 0.05


@pytest.mark.plain
def test_compiles_whole_for_all_lengths():
    torch._dynamo.reset()
    encoder = make()
    compiled = torch.compile(encoder, fullgraph=True, backend="eager", dynamic=True)

    for lengths in ([3300, 0, 1700], [2000, 900]):
        expected = encoder(clips(lengths)).zeroed()
        features = compiled(clips(lengths)).zeroed()

        torch.testing.assert_close(features.tokens, expected.tokens)
        torch.testing.assert_close(features.pooled, expected.pooled)


@pytest.mark.plain
def test_is_exported_with_lengths_of_any_size():
    encoder = make("own")
    batch, time = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("time", min=1700, max=100_000)
    sizes = [{0: batch, 1: time}, {0: batch}, {0: batch, 1: time}]

    exported = torch.export.export(encoder, (clips([3300, 0]),), dynamic_shapes=(sizes,)).module()

    other = clips([5000, 1700, 0])
    torch.testing.assert_close(exported(other).zeroed().pooled, encoder(other).zeroed().pooled)


def test_is_saved_and_loaded(tmp_path):
    from mmfuse.fusion import Concat
    from mmfuse.tasks import Classification

    model = mmfuse.MultimodalModel(
        encoders={"audio": make("spectrogram", hop=0.05)},
        fusion=Concat({"audio": 32}, dim=16),
        tasks={"topic": Classification(16, ["a", "b"])},
    ).eval()
    mmfuse.save(model, tmp_path / "model")

    again = mmfuse.load(tmp_path / "model")

    batch = mmfuse.Batch({"audio": clips([4000, 2000])})
    torch.testing.assert_close(again(batch).fused.features.pooled, model(batch).fused.features.pooled)
    assert again.encoders["audio"].pretrained


def test_has_what_the_encoder_has():
    inner = SpectrogramEncoder(32, num_mels=40)
    encoder = Windowed(inner, seconds=1.0)

    assert (encoder.dim, encoder.pretrained, encoder.backbone) == (32, False, inner.backbone)
    assert isinstance(encoder.transform(train=True), AudioTransform)
    encoder.pretrained = True
    assert inner.pretrained
    assert copy.deepcopy(encoder).window == 16000


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(TypeError, match=r"Windowed got a Linear\. Expected an encoder of waveforms.*rate_hz\. Set"):
        Windowed(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"hop=2\.0 above seconds=1\.0\. Expected a hop of at most.*Choose hop=1\.0"):
        make(seconds=1.0, hop=2.0)
    with pytest.raises(ValueError, match=r"Windowed got seconds=0\. Expected a number above 0"):
        make(seconds=0)
    with pytest.raises(ValueError, match=r"Windowed input has shape \(1, 2, 3\)\. Expected \(batch, time\)\. Mix"):
        make()(Input(torch.zeros(1, 2, 3), torch.tensor([True])))
