"""GRU and LSTM over time series: packed sequences are the reference; padding and absence change nothing."""

import pytest
import series_checks as checks
import torch
from processes import in_a_process_of_its_own
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.encoders import PatchSeriesEncoder, SeriesEncoder, TemporalConvEncoder
from mmfuse.layers.recurrent import Recurrent

MODELS = {
    "gru": {},
    "lstm": {"cell": "lstm"},
    "gru both ways": {"bidirectional": True},
    "lstm both ways, two layers": {"cell": "lstm", "num_layers": 2, "bidirectional": True},
    "last state": {"pool": "last", "num_layers": 2, "bidirectional": True},
}


def make(name="gru", **options):
    torch.manual_seed(0)
    return SeriesEncoder(8, **{"channels": checks.CHANNELS} | MODELS[name] | options)


def reference(recurrent, cell, width, hidden, layers, both):
    """torch's own module with the same weights."""
    module = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](width, hidden, layers, batch_first=True, bidirectional=both)
    parts = [part for layer in recurrent.layers for part in layer]
    with torch.no_grad():
        for weights, part in zip(module.all_weights, parts, strict=True):
            ours = (part.weight_input, part.weight_hidden, part.bias_input, part.bias_hidden)
            for theirs, mine in zip(weights, ours, strict=True):
                theirs.data = mine.data.clone()
    return module


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
def test_equals_packed_sequences(cell, layers, both):
    torch.manual_seed(0)
    recurrent = Recurrent(3, 8, cell=cell, num_layers=layers, bidirectional=both).double()
    for parameter in recurrent.parameters():
        nn.init.normal_(parameter, std=0.4)
    packed = reference(recurrent, cell, 3, 4 if both else 8, layers, both)
    batch = checks.series([9, 4, 1, 7], 11, fill=float("nan"))

    tokens, last = recurrent(batch.values, batch.mask)

    lengths = batch.mask.sum(dim=1)
    sequence = pack_padded_sequence(batch.zeroed().values, lengths, batch_first=True, enforce_sorted=False)
    steps, state = packed(sequence)
    steps, _ = pad_packed_sequence(steps, batch_first=True, total_length=11)
    state = state[0] if cell == "lstm" else state
    torch.testing.assert_close(tokens, steps, rtol=0, atol=1e-12)
    torch.testing.assert_close(last, state[-2 if both else -1 :].transpose(0, 1).flatten(1), rtol=0, atol=1e-12)
    (tokens.sin().sum() + last.square().sum()).backward()
    (steps.sin().sum() + state[-2 if both else -1 :].square().sum()).backward()
    grads = [p.grad for weights in packed.all_weights for p in weights]
    for mine, theirs in zip(recurrent.parameters(), grads, strict=True):
        torch.testing.assert_close(mine.grad, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
def test_real_steps_may_stand_anywhere(both):
    torch.manual_seed(0)
    recurrent = Recurrent(3, 8, num_layers=2, bidirectional=both).double()
    batch = checks.series([12, 12])
    mask = torch.rand(2, 12, generator=torch.Generator().manual_seed(1)) < 0.5

    tokens, last = recurrent(batch.values.masked_fill(~mask[..., None], float("nan")), mask)

    for i in range(2):
        dense = batch.values[i : i + 1, mask[i]]
        alone, end = recurrent(dense, torch.ones(1, dense.shape[1], dtype=torch.bool))
        torch.testing.assert_close(tokens[i, mask[i]], alone[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(last[i], end[0], rtol=0, atol=1e-12)
    assert not tokens[~mask].any()


def test_recurrent_matrices_start_orthogonal_and_forget_gates_open():
    part = Recurrent(3, 8, cell="lstm").layers[0][0]

    for matrix in part.weight_hidden.chunk(4):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(8), rtol=0, atol=1e-5)
    torch.testing.assert_close((part.bias_input + part.bias_hidden).chunk(4)[1], torch.ones(8))


def test_the_pooled_vector_is_the_mean_of_the_states_or_the_last_one():
    batch = checks.series([5, 3], 6)

    mean, last = (make(pool=pool).double()(batch) for pool in ("mean", "last"))

    torch.testing.assert_close(mean.pooled[1], mean.tokens[1, :3].mean(dim=0))
    torch.testing.assert_close(last.pooled, torch.stack([last.tokens[0, 4], last.tokens[1, 2]]))


@pytest.mark.plain
@pytest.mark.parametrize("name", ["gru", "lstm both ways, two layers"])
def test_compiles_whole_for_a_few_lengths(name):
    checks.check_compiles(make(name), [9, 14])


@pytest.mark.plain
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, as it traces
@pytest.mark.parametrize("name", ["gru", "lstm both ways, two layers"])
@in_a_process_of_its_own
def test_exports_for_any_length(name):
    checks.check_exports(make(name), [24, 4, 31])


def test_comes_back_from_a_folder(tmp_path):
    checks.check_saves(make("last state", mean=[1.0, 2, 3], std=[1.0, 2, 3]), tmp_path / "model")


def test_reads_flags_and_elapsed_time_as_further_channels():
    encoder = make(reading={"gaps": "keep"})

    series = encoder.transform()([[1.0, None, 2.0], [1.0, 2.0, None]])
    features = encoder(Input(series[None], torch.tensor([True])))

    assert series.shape == (2, 9)
    assert features.tokens.shape == (1, 2, 8)


def test_remembers_how_it_was_built():
    encoder = make("lstm both ways, two layers", reading={"gaps": "keep"}, dropout=0.2)

    again = SeriesEncoder(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    assert arguments_of(again) == arguments_of(encoder)


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"cell='gur'\. Expected one of \['gru', 'lstm'\]\. Did you mean 'gru'\?"):
        SeriesEncoder(8, channels=2, cell="gur")
    with pytest.raises(ValueError, match=r"SeriesTransform got rate_hz=0\. Expected a number above 0"):
        SeriesEncoder(8, channels=2, reading={"times": 0, "rate_hz": 0})
    with pytest.raises(
        ValueError, match=r"cannot split dim=7 into two directions\. Expected an even dim\. Choose dim=8"
    ):
        SeriesEncoder(7, channels=2, bidirectional=True)
    with pytest.raises(ValueError, match=r"pool='max'\. Expected one of \['mean', 'last'\]"):
        SeriesEncoder(8, channels=2, pool="max")
    with pytest.raises(ValueError, match=r"dropout=1\. Expected a share from 0 to below 1"):
        SeriesEncoder(8, channels=2, dropout=1)
    with pytest.raises(ValueError, match=r"SeriesEncoder\(reading=\.\.\.\): unknown keyword 'rate'.*mean 'rate_hz'\?"):
        SeriesEncoder(8, channels=2, reading={"rate": 10})
    with pytest.raises(
        ValueError, match=r"SeriesEncoder input has shape \(5, 40, 3\)\. Expected \(batch, time, width=2"
    ):
        SeriesEncoder(8, channels=2)(checks.series(checks.LENGTHS))


@pytest.mark.plain
@pytest.mark.parametrize("encoder", [SeriesEncoder, TemporalConvEncoder, PatchSeriesEncoder])
def test_an_encoder_without_statistics_says_how_to_make_them(encoder):
    name = encoder.__name__

    with pytest.raises(
        ValueError, match=rf"{name} got no channels\. .*Write {name}\(64, \*\*series_statistics\(train, 'n"
    ):
        encoder(64)
