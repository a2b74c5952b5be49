"""Random changes to clips: what each does, in which order with the normalisation, and that it follows the seed."""

import pickle

import pytest
import torch

from mmfuse._record import arguments_of
from mmfuse.data.transforms import AudioTransform, Augment, Gain, Noise, Shift, Transform

CLIP = (torch.sin(torch.arange(8000) * 0.2) + 0.1, 16000)


def decibel(ratio):
    return 20 * torch.log10(ratio)


def test_gain_scales_by_a_uniform_number_of_decibel():
    torch.manual_seed(0)

    gains = torch.stack([decibel(Gain(6)(torch.ones(1))) for _ in range(400)])

    assert gains.abs().max() <= 6.0 + 1e-4
    assert abs(gains.mean()) < 0.5
    assert 3.0 < gains.std() < 4.0  # 12 / sqrt(12)


def test_noise_has_the_power_that_was_asked_for():
    wave = CLIP[0]

    noise = Noise(10, 10)(wave) - wave

    ratio = wave.square().mean() / noise.square().mean()
    torch.testing.assert_close(10 * torch.log10(ratio), torch.tensor(10.0), atol=0.2, rtol=0)
    torch.testing.assert_close(Noise(10, 30)(torch.zeros(100)), torch.zeros(100))


def test_shift_moves_the_clip_and_keeps_its_length():
    wave = torch.arange(1.0, 101.0)
    torch.manual_seed(1)

    moved = [Shift(0.3)(wave) for _ in range(50)]

    starts = {int(m.count_nonzero()) - 100 if m[0] == 0 else 100 - int(m.count_nonzero()) for m in moved}
    assert min(starts) < 0 < max(starts)
    for m in moved:
        assert m.shape == wave.shape
        kept = m[m != 0]
        assert len(kept) >= 70
        torch.testing.assert_close(kept.diff(), torch.ones(len(kept) - 1))
    torch.testing.assert_close(Shift(0.0)(wave), wave)


def test_a_gain_is_not_undone_by_the_normalisation():
    torch.manual_seed(0)
    augment = Augment(AudioTransform(16000), [Gain(20)])

    levels = torch.stack([augment(CLIP).std(correction=0) for _ in range(20)])

    assert levels.max() / levels.min() > 3
    assert decibel(levels).abs().max() <= 20.01


def test_a_noisy_clip_is_normalised_as_in_evaluation():
    augment = Augment(AudioTransform(16000), [Noise(0, 0), Shift(0.5)])

    clip = augment(CLIP)

    torch.testing.assert_close(clip.std(correction=0), torch.tensor(1.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(clip.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)


def test_steps_come_in_the_order_given_around_the_normalisation():
    seen = []

    class Watch:
        def __init__(self, name, after):
            self.name, self.after = name, after

        def __call__(self, wave):
            seen.append((self.name, round(float(wave.std(correction=0)), 2)))
            return wave * 2

    Augment(AudioTransform(16000), [Watch("a", True), Watch("b", False), Watch("c", True), Watch("d", False)])(CLIP)

    level = round(float(CLIP[0].std()), 2)
    assert seen == [("b", level), ("d", round(2 * float(CLIP[0].std()), 2)), ("a", 1.0), ("c", 2.0)]


def test_the_transform_shows_through():
    inner = AudioTransform(16000, min_samples=300, max_seconds=0.25)

    augment = Augment(inner, [Noise(10, 30)])

    assert isinstance(augment, Transform)
    assert (augment.takes_path, augment.padding, augment.random) == (True, 0.0, True)
    assert augment.blank().shape == (300,)
    assert not hasattr(augment, "columns")
    clips, lost = augment.batch([CLIP, CLIP])
    assert ([len(clip) for clip in clips], lost) == ([4000, 4000], [4000, 4000])
    assert not torch.equal(clips[0], clips[1])


def test_any_transform_can_be_augmented():
    class Plain:
        takes_path, padding, random, columns = False, None, False, ("a", "b")

        def __call__(self, value):
            return torch.tensor([float(value)])

        def blank(self):
            return torch.zeros(1)

    augment = Augment(Plain(), [lambda x: x + 1])

    assert augment.columns == ("a", "b")
    assert augment(2).tolist() == [3.0]
    assert augment.batch([1, 2])[1] == [0, 0]


def test_follows_the_seed_and_survives_pickle_and_its_record():
    augment = Augment(AudioTransform(16000), [Gain(6), Noise(10, 30), Shift(0.1)])
    torch.manual_seed(0)
    expected = augment(CLIP)

    record = arguments_of(augment)
    rebuilt = Augment(
        AudioTransform(**arguments_of(record["transform"])), [type(s)(**arguments_of(s)) for s in record["steps"]]
    )

    for copy in (pickle.loads(pickle.dumps(augment)), rebuilt):
        torch.manual_seed(0)
        torch.testing.assert_close(copy(CLIP), expected)


@pytest.mark.plain
def test_says_what_is_wrong_with_a_step():
    with pytest.raises(TypeError, match=r"Augment got the step 'noise'\. Expected a callable.*Build it first"):
        Augment(AudioTransform(16000), ["noise"])
    with pytest.raises(ValueError, match=r"low_db=30 and high_db=10\. Expected .*Write Noise\(10, 30\)"):
        Noise(30, 10)
    with pytest.raises(ValueError, match=r"Gain got db=-1\. Expected 0 or more"):
        Gain(-1)
    with pytest.raises(ValueError, match=r"Shift got share=1\.5\. Expected a share from 0 to below 1"):
        Shift(1.5)
