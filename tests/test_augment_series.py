"""Random changes to a time series: what each does, what it leaves alone, and that it follows the seed."""

import math
import pickle

import pytest
import torch

from mmfuse._record import arguments_of
from mmfuse.data.transforms import Augment, Crop, FeatureTransform, Jitter, Scaling, SeriesTransform

NAN = float("nan")
GAPPY = torch.tensor([[1.0, 2.0], [NAN, 3.0], [5.0, NAN], [2.0, 1.0]])
STEPS = {
    "jitter": Jitter(0.5, channels=2),
    "scaling": Scaling(0.5, channels=2),
    "crop": Crop(0.5),
}


def test_jitter_has_the_deviation_that_was_asked_for():
    torch.manual_seed(0)

    noise = Jitter(0.3, channels=3)(torch.zeros(4000, 3))

    torch.testing.assert_close(noise.std(dim=0), torch.full((3,), 0.3), rtol=0.05, atol=0)
    torch.testing.assert_close(noise.mean(dim=0), torch.zeros(3), rtol=0, atol=0.02)
    torch.testing.assert_close(Jitter(0, channels=1)(torch.ones(5, 1)), torch.ones(5, 1))


def test_scaling_draws_one_factor_for_each_channel():
    torch.manual_seed(0)
    series = torch.randn(50, 3)

    factors = torch.stack([Scaling(0.2, channels=3)(series) / series for _ in range(500)])

    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(factors[:, 0].std(dim=0), torch.full((3,), 0.2), rtol=0.15, atol=0)
    assert (factors[:, 0, 0] - factors[:, 0, 1]).abs().max() > 0.1


def test_crop_keeps_a_stretch_in_its_order():
    torch.manual_seed(0)
    series = torch.arange(10.0)[:, None].expand(10, 2)

    kept = [Crop(0.35)(series) for _ in range(200)]

    assert {len(x) for x in kept} == {4}
    assert {int(x[0, 0]) for x in kept} == set(range(7))
    for x in kept:
        torch.testing.assert_close(x.diff(dim=0), torch.ones(3, 2))
    assert len(Crop(0.01)(series)) == 1
    torch.testing.assert_close(Crop(1)(series), series)


@pytest.mark.parametrize("name", ["jitter", "scaling"])
def test_flags_elapsed_time_and_filled_gaps_stay(name):
    plain = SeriesTransform(2, gaps="keep")(GAPPY)
    augment = Augment(SeriesTransform(2, gaps="keep"), [STEPS[name]])

    torch.manual_seed(0)
    changed = augment(GAPPY)

    torch.testing.assert_close(changed[:, 2:], plain[:, 2:], rtol=0, atol=0)
    observed = ~GAPPY.isnan()
    torch.testing.assert_close(changed[:, :2][~observed], torch.zeros(2), rtol=0, atol=0)
    assert (changed[:, :2] - plain[:, :2])[observed].abs().min() > 1e-4


@pytest.mark.parametrize("name", ["jitter", "scaling"])
def test_the_elapsed_time_of_uneven_steps_stays(name):
    series = torch.tensor([[1.0, 2.0, 0.0], [2.0, 3.0, 0.7], [5.0, 1.0, 2.0]])
    transform = SeriesTransform(2, times=2)

    torch.manual_seed(0)
    changed = Augment(transform, [STEPS[name]])(series)

    torch.testing.assert_close(changed[:, 2], transform(series)[:, 2], rtol=0, atol=0)
    assert (changed[:, :2] - transform(series)[:, :2]).abs().min() > 1e-4


def test_a_crop_takes_what_stands_beside_the_values_with_it():
    whole = SeriesTransform(2, gaps="keep")(GAPPY)
    torch.manual_seed(0)

    part = Augment(SeriesTransform(2, gaps="keep"), [Crop(0.5)])(GAPPY)

    assert any(torch.equal(part, whole[i : i + 2]) for i in range(3))


@pytest.mark.parametrize("name", STEPS)
def test_follows_the_global_generator(name):
    series = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))

    torch.manual_seed(3)
    first = STEPS[name](series)
    second = STEPS[name](series)
    torch.manual_seed(3)
    again = STEPS[name](series)

    torch.testing.assert_close(again, first, rtol=0, atol=0)
    assert not torch.equal(second, first)


@pytest.mark.parametrize("name", STEPS)
def test_survives_pickle_and_remembers_how_it_was_built(name):
    step = STEPS[name]

    again = pickle.loads(pickle.dumps(step))

    assert arguments_of(again) == arguments_of(step)
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in arguments_of(again).values())


@pytest.mark.plain
def test_a_step_that_works_in_place_does_not_change_the_table():
    series = torch.ones(3, 2)
    augment = Augment(FeatureTransform(2, sequence=True), [lambda tensor: tensor.mul_(2)])

    assert augment(series).tolist() == [[2.0, 2.0]] * 3

    assert series.tolist() == [[1.0, 1.0]] * 3


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"Crop got share=0\. Expected a share above 0 and up to 1\. Try share=0\.9"):
        Crop(0)
    with pytest.raises(ValueError, match=r"Jitter got std=-1\. Expected a number|Jitter got std=-1\. Expected 0 or"):
        Jitter(-1, channels=2)
    with pytest.raises(ValueError, match=r"Scaling got channels=0\. Expected a number above 0"):
        Scaling(0.1, channels=0)
    with pytest.raises(ValueError, match=r"Jitter got a series of shape \(4, 2\)\. Expected \(time, width\) with at"):
        Jitter(0.1, channels=3)(torch.zeros(4, 2))
