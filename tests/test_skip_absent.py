"""Encoders that run on present samples only, to the same result."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_data import WORDS, make_model, write_rows
from tiny_models import clips
from torch import nn

import mmfuse
from mmfuse import Features, Input, MultimodalModel, dims_of
from mmfuse.data import load_batches, read_table
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import (
    CNNEncoder,
    FeatureEncoder,
    FTTransformerEncoder,
    PatchSeriesEncoder,
    ProjectionEncoder,
    SeriesEncoder,
    SkipAbsent,
    SpectrogramEncoder,
    SpeechEncoder,
    TabularEncoder,
    TemporalConvEncoder,
    TextEncoder,
    TransformerEncoder,
    Video3DEncoder,
    VideoEncoder,
    ViTEncoder,
    VolumeEncoder,
    Windowed,
)
from mmfuse.fusion import Concat
from mmfuse.missing import hide
from mmfuse.tasks import Classification
from mmfuse.training import fit
from mmfuse.training.optimizer import parameter_groups

COLUMNS = {"numbers": {"age": [0.0, 1.0]}, "categories": {"kind": ["a", "b"]}}
PRESENT = torch.tensor([False, True, False, True, True, False])


def images(seed: int = 0) -> Input:
    generator = torch.Generator().manual_seed(seed)
    return Input(torch.randn(6, 3, 32, 32, generator=generator), PRESENT)


def texts() -> Input:
    lengths = torch.tensor([9, 3, 9, 5, 1, 0])
    ids = torch.randint(5, 20, (6, 9), generator=torch.Generator().manual_seed(0))
    return Input(ids, PRESENT, torch.arange(9) < lengths[:, None])


def sounds() -> Input:
    return replace(clips([0, 2000, 0, 900, 3100, 0], time=6400), present=PRESENT)


def series() -> Input:
    generator = torch.Generator().manual_seed(0)
    return Input(torch.randn(6, 8, 5, generator=generator), PRESENT, torch.arange(8) < torch.arange(6)[:, None] + 1)


def table_rows() -> Input:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(6, 1, generator=generator), torch.ones(6, 1), torch.randint(0, 4, (6, 1), generator=generator)
    return Input(torch.cat(parts, dim=1), PRESENT)


def videos() -> Input:
    values = torch.randn(6, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Input(values, PRESENT, torch.arange(4) < torch.tensor([4, 2, 1, 1, 3, 4])[:, None])


def tokenizer():
    return train_tokenizer(WORDS, vocab_size=60)


ENCODERS = {
    "ViT": (lambda: ViTEncoder.preset("tiny"), images),
    "CNN": (lambda: CNNEncoder.preset("tiny"), images),
    "ResNet": (lambda: CNNEncoder("resnet18", size=32), images),
    "Text": (lambda: TextEncoder.preset("tiny", tokenizer=tokenizer()), texts),
    "Spectrogram": (lambda: SpectrogramEncoder(dim=32, num_mels=24, num_layers=1), sounds),
    "Speech": (lambda: SpeechEncoder.preset("tiny"), sounds),
    "Feature": (lambda: FeatureEncoder(5), series),
    "GRU": (lambda: SeriesEncoder(8, channels=5, bidirectional=True), series),
    "Convolution": (lambda: TemporalConvEncoder(8, channels=5, downsample=2, dropout=0.0), series),
    "Patch": (lambda: PatchSeriesEncoder(8, channels=5, patch=3, stride=2, dropout=0.0), series),
    "Transformer": (lambda: TransformerEncoder(8, width=5, dropout=0.0), series),
    "Projection": (lambda: ProjectionEncoder(8, width=5, dropout=0.0), series),
    "Table": (lambda: TabularEncoder(8, **COLUMNS, dropout=0.0), table_rows),
    "FTTransformer": (lambda: FTTransformerEncoder(8, **COLUMNS, dropout=0.0), table_rows),
    "Video": (lambda: VideoEncoder(CNNEncoder.preset("tiny"), fps=2), videos),
    "Video3D": (lambda: Video3DEncoder.preset("tiny", num_frames=4), lambda: replace(videos(), mask=None)),
    "Volume": (lambda: VolumeEncoder(SkipAbsent(ViTEncoder.preset("tiny"))), videos),
    "Windowed": (lambda: Windowed(SpectrogramEncoder(dim=32, num_mels=24), seconds=0.1), sounds),
}


def cast(input: Input, dtype: torch.dtype) -> Input:
    return replace(input, values=input.values.to(dtype)) if input.values.is_floating_point() else input


def results(encoder: nn.Module, input: Input):
    """What is real of the features, and the gradient of every parameter."""
    encoder.zero_grad()
    features = encoder(input).zeroed()
    weights = torch.linspace(-1, 1, features.pooled.shape[1], dtype=features.pooled.dtype)
    loss = (features.tokens * weights).square().sum() + (features.pooled * weights).sin().sum()
    if loss.requires_grad:
        loss.backward()
    gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    prefix = "encoder." if isinstance(encoder, SkipAbsent) else ""
    return features, {name.removeprefix(prefix): g for name, g in gradients.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", ENCODERS)
def test_gives_the_same_as_without_gradients_included(name, dtype, tolerance):
    torch.manual_seed(0)
    make, sample = ENCODERS[name]
    # The log-mel stage of the spectrogram works in float32 whatever goes in: batches of other sizes differ there.
    tolerance = 1e-5 if name in ("Spectrogram", "Windowed") and dtype == torch.float64 else tolerance
    encoder, input = make().to(dtype).eval(), cast(sample(), dtype)

    expected, gradients = results(encoder, input)
    found, skipped = results(SkipAbsent(encoder), input)

    time = found.tokens.shape[1]
    assert not expected.mask[:, time:].any()
    assert torch.equal(found.mask, expected.mask[:, :time])
    torch.testing.assert_close(found.pooled, expected.pooled, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.tokens, expected.tokens[:, :time], rtol=tolerance, atol=tolerance)
    assert set(skipped) == set(gradients)
    for key, gradient in gradients.items():
        scale = gradient.abs().max().clamp_min(1.0)
        torch.testing.assert_close(skipped[key] / scale, gradient / scale, rtol=0, atol=tolerance, msg=key)


class Counting(nn.Module):
    """An encoder that says what it was given."""

    dim = 5

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.seen = []

    def forward(self, input):
        self.seen.append(input)
        mask = input.present[:, None].expand(input.values.shape[:2])
        values = input.zeroed().values * self.scale
        return Features(values, mask if input.mask is None else mask & input.mask, values.mean(dim=1))


def test_runs_on_the_present_rows_and_without_their_common_padding():
    encoder = Counting()

    SkipAbsent(encoder)(series())

    assert encoder.seen[0].values.shape == (3, 5, 5)  # the longest of the present is five steps long
    assert encoder.seen[0].present.all()


def test_does_not_cut_where_there_is_no_mask():
    encoder = Counting()

    SkipAbsent(encoder)(replace(series(), mask=None))

    assert encoder.seen[0].values.shape == (3, 8, 5)
    assert encoder.seen[0].mask is None


def test_a_whole_batch_goes_in_as_it_is():
    encoder = Counting()
    input = Input(torch.randn(4, 8, 5), torch.ones(4).bool(), torch.ones(4, 8).bool())

    SkipAbsent(encoder)(input)

    assert encoder.seen[0] is input


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("training", [False, True])
def test_a_batch_without_the_modality_gives_finite_absence_and_gradients_of_zero(name, training):
    make, sample = ENCODERS[name]
    encoder = SkipAbsent(make()).train(training)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    input = replace(sample(), present=torch.zeros(6).bool())

    features, gradients = results(encoder, input)

    assert not features.mask.any()
    assert features.pooled.shape[0] == 6
    assert set(gradients) == {n.removeprefix("encoder.") for n, p in encoder.named_parameters() if p.requires_grad}
    assert not any(gradient.any() for gradient in gradients.values())
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key  # the statistics of BatchNorm among them


@pytest.mark.parametrize(("training", "rows"), [(False, 1), (True, 2)])
def test_a_batch_without_the_modality_costs_one_row_or_two_in_training(training, rows):
    encoder = Counting()
    input = replace(series(), present=torch.zeros(6).bool(), values=torch.full((6, 8, 5), torch.nan))

    SkipAbsent(encoder).train(training)(input)

    assert encoder.seen[0].values.shape == (rows, 8, 5)
    assert not encoder.seen[0].values.any()
    assert not encoder.seen[0].present.any()


def test_what_is_absent_is_not_read():
    encoder = SkipAbsent(Counting())
    spoiled = series().values.masked_fill(~PRESENT[:, None, None], torch.nan)

    features, gradients = results(encoder, replace(series(), values=spoiled))

    assert features.tokens.isfinite().all()
    assert gradients["scale"].isfinite().all()


def test_one_present_sample_trains_with_batch_norm_on_maps_of_one_cell():
    torch.manual_seed(0)
    bare = CNNEncoder("resnet18", size=32).train()
    encoder = SkipAbsent(copy.deepcopy(bare))
    input = replace(images(), present=torch.arange(6) == 4)

    found, expected = encoder(input), bare(input)

    torch.testing.assert_close(found.zeroed().pooled, expected.zeroed().pooled, rtol=1e-3, atol=1e-3)
    assert found.present.tolist() == [False] * 4 + [True, False]


def test_batch_statistics_are_those_of_the_present_samples():
    torch.manual_seed(0)
    encoder = SkipAbsent(CNNEncoder("resnet18", size=32)).train()
    first = encoder.backbone[0][0]

    encoder(images())

    expected = 0.1 * first(images().values[PRESENT]).mean(dim=(0, 2, 3))
    torch.testing.assert_close(encoder.backbone[0][1].running_mean, expected, rtol=0, atol=1e-6)


@pytest.mark.plain
def test_compiles_and_exports_whole_and_runs_on_all_rows_there():
    encoder = SkipAbsent(ViTEncoder.preset("tiny")).eval()

    compiled = torch.compile(encoder, fullgraph=True, backend="eager")(images()).zeroed()
    exported = torch.export.export(encoder, (images(),), strict=False).module()(images()).zeroed()

    for features in (compiled, exported):
        torch.testing.assert_close(features.pooled, encoder(images()).zeroed().pooled, rtol=1e-5, atol=1e-5)


def test_is_the_encoder_to_everybody_else():
    inner = SpeechEncoder.preset("tiny", freeze="all")
    encoder = SkipAbsent(inner)

    assert encoder.dim == inner.dim
    assert encoder.backbone is inner.backbone
    assert encoder.transform(True).rate_hz == inner.transform(True).rate_hz
    assert not encoder.pretrained
    encoder.pretrained = True
    assert inner.pretrained
    encoder.train()
    assert not inner.backbone.training  # frozen
    assert SkipAbsent(Counting()).backbone.scale is not None


def test_trains_saves_and_loads_in_a_model(tmp_path):
    table = read_table(write_rows(tmp_path))
    made = make_model()
    encoders = {name: SkipAbsent(encoder) for name, encoder in made.encoders.items()}
    model = MultimodalModel(encoders, made.fusion, dict(made.tasks.items()))
    fit(model, load_batches(table, model, train=True), epochs=1, progress=False)

    mmfuse.save(model, tmp_path / "model")
    loaded = mmfuse.load(tmp_path / "model")

    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert loaded.encoders["image"].encoder.pretrained
    slow = [group for group in parameter_groups(loaded) if group["name"].startswith("pretrained")]
    count = sum(len(list(encoder.backbone.parameters())) for encoder in loaded.encoders.values())
    assert sum(len(group["params"]) for group in slow) == count
    bare_encoders = {name: encoder.encoder for name, encoder in loaded.encoders.items()}
    bare = MultimodalModel(bare_encoders, loaded.fusion, dict(loaded.tasks.items()))
    batch = next(iter(load_batches(table, loaded)))
    for shown in (batch, hide(batch, "image")):
        expected = bare.eval()(shown)
        for task, prediction in loaded(shown).predictions.items():
            torch.testing.assert_close(prediction, expected.predictions[task], rtol=1e-4, atol=1e-5)


def two_modalities() -> MultimodalModel:
    torch.manual_seed(0)
    encoders = {
        "sound": SkipAbsent(SpectrogramEncoder(dim=32, num_mels=24)),
        "speech": SkipAbsent(SpectrogramEncoder(dim=32, num_mels=24, num_layers=1)),
    }
    return MultimodalModel(encoders, Concat(dims_of(encoders), 16), {"kind": Classification(16, 3)})


def share_of(rank: int) -> mmfuse.Batch:
    """Rank 0 has no sound at all."""
    generator = torch.Generator().manual_seed(rank)
    present = {"sound": torch.tensor([True, False, True]) & (rank == 1), "speech": torch.tensor([True, True, False])}
    inputs = {
        name: Input(torch.randn(3, 1600, generator=generator), here, here[:, None].expand(3, 1600))
        for name, here in present.items()
    }
    return mmfuse.Batch(inputs, {"kind": mmfuse.Target(torch.tensor([0, 1, 2]), torch.ones(3).bool())})


def loss_of(model: nn.Module, batch: mmfuse.Batch) -> torch.Tensor:
    output = model(batch)
    return nn.functional.cross_entropy(output.predictions["kind"], batch.targets["kind"].values)


def work(rank: int, folder: str) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(two_modalities())
    loss_of(model, share_of(rank)).backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in model.module.named_parameters()}, f"{folder}/gradients.pt")
    dist.destroy_process_group()


@pytest.mark.plain
def test_two_processes_of_which_one_lacks_a_modality_agree_with_one(tmp_path):
    model = two_modalities()
    (sum(loss_of(model, share_of(rank)) for rank in range(2)) / 2).backward()

    mp.spawn(work, (str(tmp_path),), nprocs=2)

    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-6, msg=name)
    assert gradients["encoders.sound.encoder.backbone.convs.0.conv.weight"].any()


@pytest.mark.plain
def test_what_is_no_encoder_is_refused():
    with pytest.raises(TypeError, match="SkipAbsent got a type. Expected an encoder: a module with the width"):
        SkipAbsent(ViTEncoder)
    with pytest.raises(TypeError, match="SkipAbsent got a Linear"):
        SkipAbsent(nn.Linear(2, 2))


@pytest.mark.plain
@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4,)])
def test_given_features_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"FeatureEncoder input has shape .*Expected \(batch, dim=5\) or"):
        FeatureEncoder(5)(Input(torch.zeros(shape), torch.ones(4).bool()))


def test_given_vectors_are_their_own_only_token():
    values, present = torch.randn(3, 5), torch.tensor([True, False, True])

    features = FeatureEncoder(5)(Input(values, present))

    assert torch.equal(features.tokens[:, 0], values)
    assert torch.equal(features.pooled, values)
    assert torch.equal(features.present, present)


def test_given_sequences_are_pooled_over_their_real_steps():
    features = FeatureEncoder(5)(series())

    torch.testing.assert_close(features.pooled[3], series().values[3, :4].mean(dim=0))
    assert features.mask.sum(dim=1).tolist() == [0, 2, 0, 4, 5, 0]
