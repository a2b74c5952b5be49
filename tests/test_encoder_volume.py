"""Volumes through an image encoder: absence, padding, and the transform that a saved model still knows."""

import numpy as np
import pytest
import torch
from tiny_models import relative_error, require_finite_gradients

from mmfuse import Input, MultimodalModel, load, save
from mmfuse.encoders import CNNEncoder, SkipAbsent, ViTEncoder, VolumeEncoder
from mmfuse.fusion import Concat
from mmfuse.tasks import Classification


def make(**options):
    torch.manual_seed(0)
    return VolumeEncoder(ViTEncoder.preset("tiny", size=16), num_layers=1, slices=6, **options).eval()


def volumes(lengths=(5, 0, 3), time=5, fill=255):
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(0, 256, (len(lengths), time, 3, 16, 16), dtype=torch.uint8, generator=generator)
    counts = torch.tensor(lengths)
    mask = torch.arange(time) < counts[:, None]
    return Input(torch.where(mask[..., None, None, None], values, fill), counts > 0, mask)


@pytest.mark.parametrize("more", [1, 7])
def test_neither_padding_nor_neighbours_nor_absent_volumes_change_a_sample(more):
    encoder, batch = make(), volumes()
    longer = Input(
        torch.cat([batch.values, torch.full((3, more, 3, 16, 16), 255, dtype=torch.uint8)], dim=1),
        batch.present,
        torch.cat([batch.mask, torch.zeros(3, more, dtype=torch.bool)], dim=1),
    )

    features, padded = encoder(batch), encoder(longer)

    unmasked = encoder(Input(longer.values, batch.present, torch.ones_like(longer.mask)))
    assert relative_error(unmasked.pooled[0], features.pooled[0]) > 1e-3  # the mask is what keeps padding out
    for i, length in ((0, 5), (2, 3)):
        alone = encoder(
            Input(batch.values[i : i + 1, :length], batch.present[i : i + 1], batch.mask[i : i + 1, :length])
        )
        for other in (features, padded):
            assert relative_error(other.tokens[i, :length], alone.tokens[0]) <= 1e-5
            assert relative_error(other.pooled[i], alone.pooled[0]) <= 1e-5
    assert features.present.tolist() == [True, False, True]


@pytest.mark.parametrize("lengths", [(5, 0, 3), (0, 0, 0)])
def test_every_parameter_learns(lengths):
    encoder = make().train()

    require_finite_gradients(encoder, encoder(volumes(lengths)))


def test_a_saved_model_knows_how_volumes_are_cut(tmp_path):
    encoder = VolumeEncoder(SkipAbsent(CNNEncoder.preset("tiny")), slices=4, window=(-1000, 400), axis=1)
    model = MultimodalModel({"ct": encoder}, Concat({"ct": encoder.dim}, 8), {"ill": Classification(8, ["no", "yes"])})
    scan = np.random.default_rng(0).normal(0, 500, (9, 12, 10))

    save(model, tmp_path / "model")
    again = load(tmp_path / "model").encoders["ct"]

    values = encoder.transform()(scan)
    assert values.shape == (4, 3, 32, 32)
    assert torch.equal(again.transform(train=True)(scan), values)
    batch = Input(values[None], torch.tensor([True]), torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(again.eval()(batch).pooled, encoder.eval()(batch).pooled)
    assert again.pretrained and not encoder.pretrained  # what is loaded has learned already


@pytest.mark.plain
def test_compiles_whole():
    torch._dynamo.reset()
    encoder = make()
    compiled = torch.compile(encoder, fullgraph=True, backend="eager", dynamic=True)

    for time in (5, 7):
        batch = volumes(time=time)
        torch.testing.assert_close(compiled(batch).zeroed().pooled, encoder(batch).zeroed().pooled)


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"window=\[400, -1000\]\. Expected two numbers"):
        make(window=(400, -1000))
    with pytest.raises(TypeError, match=r"got a int\. Expected an encoder of images"):
        VolumeEncoder(3)
    with pytest.raises(ValueError, match=r"input has shape \(2, 3, 16, 16\)"):
        make()(Input(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.ones(2, dtype=torch.bool)))
