"""The small network with BatchNorm for training from scratch: channels, place, absence, compiling, learning."""

import pytest
import torch
from tiny_models import relative_error, require_finite_gradients

from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.encoders import CNNEncoder, VideoEncoder


def make(channels=3, size=32, **options):
    torch.manual_seed(0)
    return CNNEncoder.preset("plain", size=size, mean=[0.1] * channels, std=[0.2] * channels, **options)


def images(present=(True, False, True, True), channels=3, size=32):
    present = torch.tensor(present)
    values = torch.randn(len(present), channels, size, size, generator=torch.Generator().manual_seed(1))
    values[~present] = float("nan")
    return Input(values, present)


@pytest.mark.parametrize("channels, size", [(1, 32), (3, 64), (5, 72), (2, 128)])
def test_images_of_any_number_of_channels_are_encoded_alone_as_in_a_batch(channels, size):
    encoder, batch = make(channels, size).eval(), images(channels=channels, size=size)

    features = encoder(batch)

    for i in (0, 2, 3):
        alone = encoder(Input(batch.values[i : i + 1], batch.present[i : i + 1]))
        assert relative_error(features.tokens[i], alone.tokens[0]) <= 1e-5
        assert relative_error(features.pooled[i], alone.pooled[0]) <= 1e-5
    assert features.tokens.shape == (4, (-(-size // 16)) ** 2, 64)
    assert features.present.tolist() == batch.present.tolist()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_of_uint8_are_normalised_by_the_statistics_given(channels):
    encoder = make(channels).eval()
    pixels = torch.randint(0, 256, (3, channels, 32, 32), dtype=torch.uint8)
    present = torch.tensor([True, False, True])

    features = encoder(Input(pixels, present))

    expected = encoder(Input((pixels / 255 - 0.1) / 0.2, present))
    torch.testing.assert_close(features.zeroed().pooled, expected.zeroed().pooled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("present", [(True, False, True, True), (False, False, False)])
def test_every_parameter_has_a_finite_gradient_and_absence_leaves_no_trace(present):
    encoder = make(size=64).train()
    before = {key: value.clone() for key, value in encoder.named_buffers()}
    batch = images(present, size=64)

    features = encoder(batch)

    require_finite_gradients(encoder, features)
    moved = any(not torch.equal(value, before[key]) for key, value in encoder.named_buffers())
    assert moved == any(present)
    assert all(value.isfinite().all() for value in encoder.buffers())


def test_convnext_of_ones_own_takes_other_channels_too():
    encoder = CNNEncoder.preset("tiny", mean=[0.1] * 4, std=[0.2] * 4).train()

    features = encoder(images(channels=4))

    require_finite_gradients(encoder, features)


def test_the_pooled_vector_of_place_tells_where_something_is_and_a_mean_hardly_does():
    apart = {}
    for pool in ("place", "mean"):
        encoder = make(size=64, pool=pool).eval()
        left = torch.zeros(1, 3, 64, 64)
        left[..., 24:40, 16:24] = 5.0
        right = left.roll(16, dims=-1)  # by a cell: the same but for the place
        present = torch.tensor([True])

        one, other = encoder(Input(left, present)).pooled, encoder(Input(right, present)).pooled

        apart[pool] = relative_error(one, other)
    assert apart["place"] > 3 * apart["mean"]


@pytest.mark.plain
@pytest.mark.parametrize("train", [False, True])
def test_compiles_whole(train):
    torch._dynamo.reset()
    encoder, batch = make(dropout=0.0).train(train), images()
    expected = encoder(batch)

    features = torch.compile(encoder, fullgraph=True, backend="eager")(batch)

    torch.testing.assert_close(features.zeroed().pooled, expected.zeroed().pooled)


@pytest.mark.plain
def test_is_exported_for_batches_of_any_size():
    encoder, batch = make().eval(), images()

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder

        def forward(self, values, present):
            return self.encoder(Input(values, present)).zeroed().pooled

    sizes = ({0: torch.export.Dim("batch", min=2)},) * 2
    exported = torch.export.export(Pooled(), (batch.values, batch.present), dynamic_shapes=sizes).module()

    found = exported(batch.values[:3], batch.present[:3])

    torch.testing.assert_close(found, Pooled()(batch.values[:3], batch.present[:3]))


def test_works_in_half_precision_and_as_frames_of_a_video():
    encoder = VideoEncoder(make(), num_frames=3).train()
    clips = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    mask = torch.tensor([[True, True, False], [True, True, True]])

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(Input(clips, mask.any(1), mask))

    assert features.zeroed().pooled.isfinite().all()


def test_learns_from_few_faint_images_where_the_bright_spot_is():
    torch.manual_seed(0)
    encoder, head = make(1, dropout=0.0), torch.nn.Linear(64, 4)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3)
    corner = torch.arange(16) % 4
    present = torch.ones(16, dtype=torch.bool)

    for _ in range(25):
        values = 0.1 * torch.randn(16, 1, 32, 32)
        for row, where in enumerate(corner.tolist()):
            values[row, :, 6 + 16 * (where // 2) :, 6 + 16 * (where % 2) :][:, :5, :5] += 0.5
        loss = torch.nn.functional.cross_entropy(head(encoder(Input(values, present)).pooled), corner)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert loss < 0.1


def test_remembers_how_it_was_built():
    encoder = make(5, dim=24, freeze=2)

    again = CNNEncoder(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    assert (again.dim, again.channels, again.mean) == (24, 5, [0.1] * 5)


@pytest.mark.plain
def test_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"CNNEncoder got pool='plac'\. Expected one of .*Did you mean 'place'\?"):
        make(pool="plac")
    with pytest.raises(ValueError, match=r"CNNEncoder got dropout=1\.5"):
        make(dropout=1.5)
    with pytest.raises(ValueError, match=r"got mean=.* and std=\[1\]\. Expected a value of each for every channel"):
        CNNEncoder.preset("plain", mean=[0, 0], std=[1])
    with pytest.raises(ValueError, match=r"got mean=\[\] and std=\[\]\. Expected a value of each for every channel"):
        CNNEncoder.preset("plain", mean=[], std=[])
    with pytest.raises(ValueError, match=r"input has shape .*channel=5.*a transform of your own.*transforms="):
        make(5)(images())
    with pytest.raises(ValueError, match=r"no model named 'plain'\. Expected one of .* or 'plain' with stages="):
        CNNEncoder("plain")
