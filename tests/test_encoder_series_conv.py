"""Dilated convolutions over time series: the equation, the reach, and that padding and absence change nothing."""

import pytest
import series_checks as checks
import torch
import torch.nn.functional as F

from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.encoders import TemporalConvEncoder

MODELS = {
    "both sides": {"num_layers": 3},
    "causal": {"num_layers": 3, "causal": True, "kernel": 2},
    "three steps a token": {"num_layers": 2, "downsample": 3, "kernel": 5},
    "causal, two steps a token": {"num_layers": 2, "downsample": 2, "causal": True},
}


def make(name="both sides", **options):
    torch.manual_seed(0)
    return TemporalConvEncoder(8, **{"channels": checks.CHANNELS, "dropout": 0.0} | MODELS[name] | options)


@pytest.mark.parametrize("causal", [False, True])
def test_equals_its_equation(causal):
    encoder = make(num_layers=2, causal=causal).double()
    series = checks.series([7]).values[0]

    got = encoder(checks.cut(checks.series([7]), 0)).tokens[0]

    def convolved(conv, norm, x, dilation):  # one step and one tap at a time
        rows = []
        for t in range(len(x)):
            total = conv.bias.clone()
            for tap in range(3):
                place = t + dilation * (tap - (2 if causal else 1))
                if 0 <= place < len(x):
                    total = total + conv.weight[:, :, tap] @ x[place]
            rows.append(F.gelu(F.layer_norm(total, (8,), norm.weight, norm.bias)))
        return torch.stack(rows)

    first = encoder.first.conv
    x = torch.stack([first.weight[:, :, 0] @ step + first.bias for step in series])
    for depth, block in enumerate(encoder.blocks):
        read = x
        for conv, norm in zip(block.convs, block.norms, strict=True):
            read = convolved(conv.conv, norm, read, 2**depth)
        x = x + read
    torch.testing.assert_close(got, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_a_token_sees_as_many_steps_as_promised(causal):
    encoder = make(num_layers=3, causal=causal).double()
    batch = checks.series([81])
    values = batch.values.clone().requires_grad_()

    encoder(Input(values, batch.present)).tokens[0, 40].sum().backward()

    seen = values.grad[0].abs().sum(dim=-1).nonzero().flatten().tolist()
    reach = 2 * (3 - 1) * (2**3 - 1)
    before = reach if causal else reach // 2
    assert seen == list(range(40 - before, 40 - before + reach + 1))


@pytest.mark.parametrize("name", MODELS)
def test_every_step_is_read(name):
    batch = checks.series([10, 9, 8, 4, 1], dtype=torch.float32)
    values = batch.values.clone().requires_grad_()

    make(name)(Input(values, batch.present, batch.mask)).pooled.sin().sum().backward()

    assert torch.equal(values.grad.any(dim=-1), batch.mask)


def test_a_causal_token_reads_its_own_steps_and_none_after_them():
    batch = checks.series([13], dtype=torch.float32)
    values = batch.values.clone().requires_grad_()

    make(downsample=4, causal=True)(Input(values, batch.present)).tokens[0, 1].sum().backward()

    assert values.grad[0].any(dim=-1).nonzero().flatten().tolist() == list(range(8))


def test_real_steps_may_begin_anywhere():
    batch = checks.series([7, 7], dtype=torch.float32)
    mask = torch.tensor([[False] * 3 + [True] * 4, [False, True] + [False] * 5])

    features = make("three steps a token")(Input(batch.values, batch.present, mask))

    assert features.mask.tolist() == [[False, True, True], [True, False, False]]


def test_a_token_stands_for_several_steps():
    features = make("three steps a token")(checks.series([10, 9, 4, 1, 0], 17, dtype=torch.float32))

    assert features.mask.sum(dim=1).tolist() == [4, 3, 2, 1, 0]


@pytest.mark.plain
@pytest.mark.parametrize("name", ["both sides", "causal, two steps a token"])
def test_compiles_whole_for_all_lengths(name):
    checks.check_compiles(make(name), [9, 20, 24, 31, 40])


@pytest.mark.plain
@pytest.mark.parametrize("name", ["both sides", "causal, two steps a token"])
def test_exports_for_all_lengths(name):
    checks.check_exports(make(name), [24, 4, 31, 100])


def test_comes_back_from_a_folder(tmp_path):
    checks.check_saves(make("three steps a token", mean=[1.0, 2, 3], std=[1.0, 2, 3]), tmp_path / "model")


def test_remembers_how_it_was_built():
    encoder = make("causal, two steps a token", reading={"gaps": "keep"})

    again = TemporalConvEncoder(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    assert again.transform().width == 9


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"got kernel=4\. Expected an odd number of taps.*Choose kernel=5, or causal="):
        make(kernel=4)
    with pytest.raises(ValueError, match=r"got downsample=0\. Expected a number above 0"):
        make(downsample=0)
    with pytest.raises(ValueError, match=r"TemporalConvEncoder got dropout=1\.0\. Expected a share"):
        make(dropout=1.0)
    with pytest.raises(
        ValueError, match=r"TemporalConvEncoder input has shape \(2, 3\)\. Expected \(batch, time, width"
    ):
        make()(Input(torch.zeros(2, 3), torch.ones(2, dtype=torch.bool)))
