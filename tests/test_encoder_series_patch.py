"""A transformer over patches of time series: which patches are real, the equation, and that padding changes nothing."""

import pytest
import series_checks as checks
import torch

from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.encoders import PatchSeriesEncoder

MODELS = {
    "overlapping": {"patch": 8},
    "side by side": {"patch": 5, "stride": 5},
    "uneven": {"patch": 7, "stride": 3},
    "single steps": {"patch": 1},
}


def make(name="overlapping", **options):
    torch.manual_seed(0)
    plain = {"channels": checks.CHANNELS, "dropout": 0.0, "num_layers": 2, "num_heads": 2}
    return PatchSeriesEncoder(8, **plain | MODELS[name] | options)


@pytest.mark.parametrize("name", MODELS)
def test_patches_cover_every_step_and_none_is_there_for_padding_alone(name):
    encoder = make(name)

    for length in range(1, 30):
        count = int(encoder(checks.series([length], length + 20, dtype=torch.float32)).mask.sum())
        covered = (count - 1) * encoder.stride + encoder.patch
        assert covered >= length
        assert count == 1 or covered - encoder.stride < length


def test_without_layers_equals_its_equation():
    from mmfuse.layers.positions import sinusoids

    encoder = make("uneven", num_layers=0).double()
    batch = checks.series([9], 30, fill=float("nan"))

    got = encoder(batch)

    weight = encoder.embed.weight.unflatten(1, (4, 7))  # (dim, width and flag, step)
    for i in range(2):  # the second patch holds steps 3 to 9, and the ninth is the last: index 9 is not real
        token = encoder.embed.bias.clone()
        for step in range(7):
            if i * 3 + step < 9:
                token = token + weight[:, :3, step] @ batch.values[0, i * 3 + step] + weight[:, 3, step]
        token = token + sinusoids(i + 1, token[None])[i]
        token = torch.nn.functional.layer_norm(token, (8,))
        torch.testing.assert_close(got.tokens[0, i], token, rtol=0, atol=1e-12)
    assert got.mask[0].tolist() == [True] * 2 + [False] * (got.mask.shape[1] - 2)


def test_a_series_that_ends_is_told_from_one_that_goes_on_at_its_mean():
    encoder = make()
    values = torch.zeros(1, 8, 3)

    short, long = (
        encoder(Input(values, torch.tensor([True]), torch.arange(8)[None] < length)).pooled for length in (4, 8)
    )

    assert (short - long).abs().max() > 1e-3


@pytest.mark.plain
@pytest.mark.parametrize("name", ["overlapping", "uneven"])
def test_compiles_whole_for_all_lengths(name):
    checks.check_compiles(make(name), [9, 20, 24, 31, 40])


@pytest.mark.plain
@pytest.mark.parametrize("name", ["overlapping", "uneven"])
def test_exports_for_all_lengths(name):
    checks.check_exports(make(name), [24, 4, 31, 100])


def test_comes_back_from_a_folder(tmp_path):
    checks.check_saves(make("uneven", mean=[1.0, 2, 3], std=[1.0, 2, 3]), tmp_path / "model")


def test_remembers_how_it_was_built():
    encoder = make("uneven", reading={"gaps": "keep"})

    again = PatchSeriesEncoder(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    assert again.transform().width == 9


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"got stride=9 for patch=8\. Expected at most 8.*Choose stride=4"):
        make(stride=9)
    with pytest.raises(ValueError, match=r"PatchSeriesEncoder got patch=0\. Expected a number above 0"):
        make(patch=0)
    with pytest.raises(ValueError, match=r"heads"):
        make(num_heads=3)
    with pytest.raises(
        ValueError, match=r"PatchSeriesEncoder input has shape \(2, 3\)\. Expected \(batch, time, width="
    ):
        make()(Input(torch.zeros(2, 3), torch.ones(2, dtype=torch.bool)))
