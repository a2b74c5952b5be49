"""Encoders of given features: passed on, projected, or through a transformer."""

import copy

import numpy as np
import pytest
import torch
from tiny_models import relative_error, require_finite_gradients

import mmfuse
from mmfuse import Input, MultimodalModel
from mmfuse._record import arguments_of
from mmfuse.data import load_batches, read_table
from mmfuse.encoders import FeatureEncoder, ProjectionEncoder, SeriesEncoder, TransformerEncoder
from mmfuse.fusion import Concat
from mmfuse.layers.sequence import SequenceTransformer
from mmfuse.tasks import Classification

WIDTH = 6
ENCODERS = {
    "feature": lambda: FeatureEncoder(WIDTH, sequence=True),
    "projection": lambda: ProjectionEncoder(8, width=WIDTH, sequence=True, dropout=0.0),
    "transformer": lambda: TransformerEncoder(8, width=WIDTH, dropout=0.0),
}
LENGTHS = [9, 4, 1, 0]


def make(name, **to):
    torch.manual_seed(0)
    return ENCODERS[name]().to(**to)


def sequences(lengths=LENGTHS, extra=0, fill=float("nan"), dtype=torch.float32):
    """Random sequences; where nothing is real stands ``fill``. Length 0 is absent."""
    generator = torch.Generator().manual_seed(0)
    time = max(lengths) + extra
    values = torch.full((len(lengths), time, WIDTH), fill, dtype=dtype)
    for row, length in zip(values, lengths, strict=True):
        row[:length] = torch.randn(length, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    counts = torch.tensor(lengths)
    return Input(values, counts > 0, torch.arange(time) < counts[:, None])


def vectors():
    values = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    values[2] = float("nan")
    return Input(values, torch.tensor([True, True, False, True]))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("fill", [1e4, float("nan")])
def test_padding_changes_nothing(name, fill):
    encoder = make(name, dtype=torch.float64)
    inputs = sequences(dtype=torch.float64)
    alone = [encoder(Input(inputs.values[i : i + 1, :n], inputs.present[i : i + 1])) for i, n in enumerate(LENGTHS[:3])]

    for extra in (1, 7, 50):
        features = encoder(sequences(extra=extra, fill=fill, dtype=torch.float64))

        assert features.mask.sum(dim=1).tolist() == LENGTHS
        for i, expected in enumerate(alone):
            torch.testing.assert_close(features.tokens[i, : LENGTHS[i]], expected.tokens[0], rtol=0, atol=1e-10)
            torch.testing.assert_close(features.pooled[i], expected.pooled[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_that_is_not_masked_would_change_the_result(name):
    encoder, inputs = make(name), sequences([9, 4], fill=1e4)

    unmasked = encoder(Input(inputs.values, inputs.present))

    assert relative_error(unmasked.pooled[1], encoder(inputs).pooled[1]) > 0.01


@pytest.mark.parametrize("name", ["projection", "transformer"])
@pytest.mark.parametrize("lengths", [LENGTHS, [0, 0, 3], [0, 0]])
def test_every_parameter_learns_beside_nan_and_absent_sequences(name, lengths):
    encoder = make(name)

    features = encoder(sequences(lengths, extra=2))

    assert features.present.tolist() == [n > 0 for n in lengths]
    assert features.pooled.isfinite().all()
    require_finite_gradients(encoder, features)


def test_the_projection_equals_its_equation_for_vectors_and_steps():
    encoder = make("projection", dtype=torch.float64)
    steps = sequences(dtype=torch.float64)

    tokens = encoder(steps).tokens
    single = encoder(Input(steps.values[:, 0], steps.present))

    for i, length in enumerate(LENGTHS):
        for t in range(length):
            x = steps.values[i, t]
            normed = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * encoder.norm.weight + encoder.norm.bias
            hidden = encoder.first.weight @ normed + encoder.first.bias
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
            expected = encoder.second.weight @ hidden + encoder.second.bias
            torch.testing.assert_close(tokens[i, t], expected, rtol=0, atol=1e-12)
            if t == 0:
                torch.testing.assert_close(single.pooled[i], expected, rtol=0, atol=1e-12)


def test_the_transformer_is_norm_projection_and_layers():
    encoder = make("transformer", dtype=torch.float64)
    steps = sequences(dtype=torch.float64)

    features = encoder(steps)

    for i, length in enumerate(LENGTHS[:3]):
        projected = encoder.project(encoder.norm(steps.values[i : i + 1, :length]))
        expected = encoder.transformer(projected, torch.ones(1, length, dtype=torch.bool))[0]
        torch.testing.assert_close(features.tokens[i, :length], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(features.pooled[i], expected.mean(dim=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["feature", "projection"])
def test_a_vector_is_its_own_only_token(name):
    encoder = make(name)

    features = encoder(vectors())

    assert features.tokens.shape == (4, 1, encoder.dim)
    assert features.mask[:, 0].tolist() == [True, True, False, True]
    torch.testing.assert_close(features.zeroed().pooled, features.zeroed().tokens[:, 0])


def test_the_scale_of_given_features_does_not_matter_to_a_projection():
    encoder, inputs = make("projection"), sequences(fill=0.0)

    large = encoder(Input(inputs.values * 1e4, inputs.present, inputs.mask))

    assert relative_error(large.pooled, encoder(inputs).pooled) < 1e-3


@pytest.mark.plain
@pytest.mark.parametrize("name", ENCODERS)
def test_compiles_whole_for_any_length(name):
    torch._dynamo.reset()
    encoder = make(name)
    compiled = torch.compile(encoder, fullgraph=True, backend="eager", dynamic=True)

    for lengths in ([5, 0, 3], [9, 2, 0]):
        expected = encoder(sequences(lengths)).zeroed()
        torch.testing.assert_close(compiled(sequences(lengths)).zeroed().tokens, expected.tokens)


@pytest.mark.plain
@pytest.mark.parametrize("name", ENCODERS)
def test_exports(name):
    encoder, inputs = make(name).eval(), sequences(fill=0.0)

    program = torch.export.export(encoder, (inputs,))

    torch.testing.assert_close(program.module()(inputs).pooled, encoder(inputs).pooled)


@pytest.mark.parametrize("name", ["projection", "transformer"])
def test_half_precision_stays_near(name):
    encoder, inputs = make(name), sequences()
    expected = encoder(inputs).zeroed().pooled

    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = encoder(inputs).zeroed().pooled
    half = copy.deepcopy(encoder).to(torch.bfloat16)(inputs).zeroed().pooled

    assert relative_error(mixed.float(), expected) < 0.05
    assert relative_error(half.float(), expected) < 0.05


@pytest.mark.parametrize("name", ENCODERS)
def test_remembers_how_it_was_built_and_hands_out_its_transform(name):
    encoder = make(name)

    again = type(encoder)(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    assert not again.pretrained
    transform = again.transform(train=True)
    assert (transform.width, transform.sequence) == (WIDTH, True)
    assert again(Input(transform.blank()[None], torch.tensor([False]))).tokens.shape == (1, 1, again.dim)


def test_features_of_files_and_cells_go_through_a_model_that_is_saved_and_loaded(tmp_path):
    rows = []
    for i, length in enumerate((3, 5, 0, 2)):
        np.save(tmp_path / f"{i}.npy", np.full((length, WIDTH), i, dtype=np.float32))
        rows.append({"video": f"{i}.npy" if length else None, "face": [1.0 * i] * WIDTH, "label": "ab"[i % 2]})
    encoders = {"video": TransformerEncoder(8, width=WIDTH, max_steps=4), "face": ProjectionEncoder(8, width=WIDTH)}
    fusion = Concat({"video": 8, "face": 8}, 8)
    model = MultimodalModel(encoders, fusion, {"label": Classification(8, ["a", "b"])}).eval()
    table = read_table(rows, root=tmp_path)

    batch = next(iter(load_batches(table, model, batch_size=4)))
    mmfuse.save(model, tmp_path / "model")
    again = mmfuse.load(tmp_path / "model")

    assert batch.inputs["video"].mask.sum(dim=1).tolist() == [3, 4, 0, 2]
    assert batch.inputs["face"].values[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    expected = model(batch).predictions["label"]
    torch.testing.assert_close(again(batch).predictions["label"], expected, rtol=0, atol=0)
    assert again.encoders["video"].transform().max_steps == 4


def test_a_gru_reads_the_same_files(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4 * WIDTH, dtype=np.float32).reshape(4, WIDTH))
    encoder = SeriesEncoder(8, channels=WIDTH)

    series = encoder.transform()(tmp_path / "a.npy")

    assert series.tolist() == make("feature").transform()(tmp_path / "a.npy").tolist()
    assert encoder(Input(series[None], torch.tensor([True]))).tokens.shape == (1, 4, 8)


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"FeatureEncoder input has shape \(4, 7\)\. Expected \(batch, dim=6\) or \("):
        FeatureEncoder(6)(Input(torch.zeros(4, 7), torch.ones(4).bool()))
    with pytest.raises(ValueError, match=r"ProjectionEncoder input has shape \(4, 7\)\. Expected \(batch, width=6"):
        make("projection")(Input(torch.zeros(4, 7), torch.ones(4).bool()))
    with pytest.raises(ValueError, match=r"TransformerEncoder input has shape \(4, 6\)\. Expected \(batch, time"):
        make("transformer")(vectors())
    with pytest.raises(ValueError, match=r"cannot split dim=10 into num_heads=4 equal heads"):
        TransformerEncoder(10, width=6)
    with pytest.raises(ValueError, match=r"ProjectionEncoder got dropout=1\. Expected a share"):
        ProjectionEncoder(8, width=6, dropout=1)
    with pytest.raises(ValueError, match=r"TransformerEncoder got num_layers=0\. Expected a number above 0"):
        TransformerEncoder(8, width=6, num_layers=0)
    with pytest.raises(TypeError, match=r"ProjectionEncoder got width=2\.5\. Expected a whole number\. Write width=32"):
        ProjectionEncoder(8, width=2.5)
    with pytest.raises(TypeError, match=r"TransformerEncoder got num_heads=2\.0\. Expected a whole number"):
        TransformerEncoder(8, width=6, num_heads=2.0)
    with pytest.raises(TypeError, match=r"SequenceTransformer got num_layers=1\.5\. Expected a whole number"):
        SequenceTransformer(8, 1.5)
