"""Networks of torchvision behind one encoder: absence, statistics of BatchNorm, freezing, loading, compiling."""

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import relative_error, require_finite_gradients

from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.data.transforms import ImageTransform
from mmfuse.encoders import CNNEncoder

MODELS = {
    "resnet18": {},
    "mobilenet_v3_small": {"dim": 16},
    "efficientnet_b0": {},
    "convnext": {"stages": [[8, 1], [16, 1]]},
}
CHANNELS = {"resnet18": 512, "mobilenet_v3_small": 16, "efficientnet_b0": 1280, "convnext": 16}


def make(name, size=32, **options):
    torch.manual_seed(0)
    return CNNEncoder(name, size=size, **MODELS[name] | options).eval()


def images(present=(True, False, True, True), size=32):
    present = torch.tensor(present)
    values = torch.randn(len(present), 3, size, size, generator=torch.Generator().manual_seed(1))
    values[~present] = float("nan")
    return Input(values, present)


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_alone_is_the_same_as_in_a_batch_beside_absent_ones(name):
    encoder, batch = make(name), images()

    features = encoder(batch)

    for i in (0, 2, 3):
        alone = encoder(Input(batch.values[i : i + 1], batch.present[i : i + 1]))
        assert relative_error(features.tokens[i], alone.tokens[0]) <= 1e-5
        assert relative_error(features.pooled[i], alone.pooled[0]) <= 1e-5
    assert features.present.tolist() == batch.present.tolist()
    assert encoder.dim == features.tokens.shape[2] == CHANNELS[name]


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns_beside_absent_images(name):
    encoder = make(name, size=64).train()

    features = encoder(images(size=64))

    require_finite_gradients(encoder, features)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "convnext"])
def test_pixels_of_uint8_are_normalised_here_and_floats_are_taken_as_they_are(name, train):
    encoder = make(name, size=64).train(train)
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    present = torch.tensor([True, False, True])
    centre, spread = (torch.tensor(x).reshape(3, 1, 1) for x in (encoder.mean, encoder.std))
    expected = encoder(Input((pixels / 255 - centre) / spread, present))

    features = encoder(Input(pixels, present))

    pixels[1] = 255  # what stands in for an absent image is never read
    again = encoder(Input(pixels, present))
    torch.testing.assert_close(features.zeroed().tokens, expected.zeroed().tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.zeroed().tokens, again.zeroed().tokens, rtol=0, atol=0)
    if train:
        require_finite_gradients(encoder, features)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_without_any_image_leaves_the_statistics_alone(name):
    encoder = make(name).train()
    before = {key: value.clone() for key, value in encoder.named_buffers()}

    features = encoder(images(present=(False, False)))

    require_finite_gradients(encoder, features)
    for key, value in encoder.named_buffers():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_absent_images_leave_no_trace_in_the_statistics_of_batch_norm():
    """Each present image is copied as often as the others: the means are equal, the variances but for n / (n - 1)."""
    mixed, alone = make("resnet18").train(), make("resnet18").train()
    batch = images(present=(True, False, True, False, False, True, False, True))

    features = mixed(batch)

    expected = alone(Input(batch.values[batch.present], batch.present[batch.present]))
    torch.testing.assert_close(features.tokens[batch.present], expected.tokens, rtol=1e-4, atol=1e-4)
    first, second = mixed.backbone[0][1], alone.backbone[0][1]
    torch.testing.assert_close(first.running_mean, second.running_mean)
    n = 4 * 16 * 16  # images and cells after the first convolution
    unbiased = [(norm.running_var - 0.9) / 0.1 * (m - 1) / m for norm, m in ((first, 2 * n), (second, n))]
    torch.testing.assert_close(*unbiased, rtol=1e-4, atol=1e-4)
    for one, other in zip(mixed.named_buffers(), alone.named_buffers(), strict=True):
        if "running_mean" in one[0]:
            torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-5, msg=one[0])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_local_weights_give_the_feature_map_of_torchvision(name, tmp_path):
    from torchvision import models

    torch.manual_seed(3)
    theirs = models.get_model(name, weights=None, num_classes=7).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    batch = images(present=(True, True))

    encoder = CNNEncoder.from_pretrained(name, tmp_path / "model.safetensors", size=32).eval()

    head = theirs.fc if name == "resnet18" else theirs.classifier
    torch.testing.assert_close(head(encoder(batch).pooled), theirs(batch.values), rtol=1e-4, atol=1e-4)
    assert encoder.pretrained


def test_the_recommended_weights_come_with_their_transform(monkeypatch):
    from torchvision import models

    state = models.get_model("resnet18", weights=None).state_dict()
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", lambda self, **options: state)

    encoder = CNNEncoder.from_pretrained("resnet18", freeze="all")

    transform = encoder.transform()
    assert isinstance(transform, ImageTransform)
    assert (transform.size, encoder.mean, encoder.std) == (224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert encoder.transform(train=True).random
    torch.testing.assert_close(encoder.backbone[0][0].weight, state["conv1.weight"])


@pytest.mark.parametrize("name", ["resnet18", "convnext"])
@pytest.mark.parametrize("freeze, parts", [("all", None), (0, 1), (2, 3)])
def test_frozen_parts_do_not_learn_and_stay_in_evaluation_mode(name, freeze, parts):
    encoder = make(name, freeze=freeze).train()
    before = {key: value.clone() for key, value in encoder.backbone[:parts].named_buffers()}

    features = encoder(images())

    assert not any(p.requires_grad for p in encoder.backbone[:parts].parameters())
    assert not any(module.training for part in encoder.backbone[:parts] for module in part.modules())
    for key, value in encoder.backbone[:parts].named_buffers():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    if parts:
        assert all(part.training for part in encoder.backbone[parts:])
        require_finite_gradients(encoder, features)


@pytest.mark.plain
@pytest.mark.parametrize("name", ["resnet18", "convnext"])
@pytest.mark.parametrize("train", [False, True])
def test_compiles_whole(name, train):
    torch._dynamo.reset()
    encoder, batch = make(name).train(train), images()
    expected = encoder(batch)

    features = torch.compile(encoder, fullgraph=True, backend="eager")(batch)

    torch.testing.assert_close(features.zeroed().pooled, expected.zeroed().pooled)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_of_floats_are_taken_by_weights_of_any_type(dtype):
    encoder = make("convnext")
    expected = encoder(images()).zeroed().pooled

    features = encoder.to(dtype)(images())

    assert features.pooled.dtype == dtype
    assert relative_error(features.zeroed().pooled.float(), expected) < 0.05


def test_works_in_half_precision():
    encoder = make("resnet18").train()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(images())

    assert features.zeroed().pooled.isfinite().all()


def test_the_small_preset_learns_to_tell_stripes_apart():
    torch.manual_seed(0)
    encoder, head = CNNEncoder.preset("tiny"), torch.nn.Linear(64, 2)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3)
    wave = torch.sin(torch.arange(32) * 0.8)
    across = torch.arange(16) % 2 == 0
    present = torch.ones(16, dtype=torch.bool)

    for _ in range(30):
        stripes = torch.where(across[:, None, None], wave[:, None], wave[None]).expand(16, 32, 32)
        values = stripes[:, None] + 0.5 * torch.randn(16, 3, 32, 32)
        logits = head(encoder(Input(values, present)).pooled)
        loss = torch.nn.functional.cross_entropy(logits, across.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert loss < 0.1


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_remembers_how_it_was_built(preset):
    encoder = CNNEncoder.preset(preset, dim=24)

    again = CNNEncoder(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    assert again.dim == 24


@pytest.mark.plain
def test_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"CNNEncoder got mean=.*and std=\[0\.5\]\. Expected three values.*Repeat"):
        CNNEncoder("resnet18", std=[0.5])
    for wrong in ({"size": 0}, {"dim": 0}):
        with pytest.raises(ValueError, match=rf"CNNEncoder got {next(iter(wrong))}=0\. Expected a number above 0"):
            CNNEncoder("resnet18", **wrong)
    with pytest.raises(ValueError, match=r"CNNEncoder got std\[1\]=0\. Expected a number above 0"):
        CNNEncoder("resnet18", std=[1, 0, 1])
    with pytest.raises(ValueError, match=r"no model named 'resnt18'\. Expected one of .*Did you mean 'resnet18'\?"):
        CNNEncoder("resnt18")
    with pytest.raises(ValueError, match=r"freeze=5\. Expected 'none', 'all', or a number from 0 to 4"):
        make("resnet18", freeze=5)
    with pytest.raises(ValueError, match=r"CNNEncoder input has shape \(4, 3, 48, 48\).*height=32.*transform\(\)"):
        make("convnext")(images(size=48))
    with pytest.raises(ValueError, match=r"does not read 'a\.pth'.*Expected a \.safetensors file.*Convert it once"):
        CNNEncoder.from_pretrained("resnet18", tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"no file '.*b\.safetensors'\. Expected weights as \.safetensors\. Check"):
        CNNEncoder.from_pretrained("resnet18", tmp_path / "b.safetensors")
    save_file({"conv1.weight": torch.zeros(2), "other": torch.zeros(2)}, tmp_path / "c.safetensors")
    with pytest.raises(
        ValueError, match=r"weights for 'mobilenet_v2'.*such as 'conv1.weight'\. Expected.*Give the name"
    ):
        CNNEncoder.from_pretrained("mobilenet_v2", tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match=r"weights for 'resnet18': 1 tensors do not fit, such as 'conv1.weight'"):
        CNNEncoder.from_pretrained("resnet18", tmp_path / "c.safetensors")
    (tmp_path / "d.safetensors").write_bytes(b"broken" * 9)
    with pytest.raises(ValueError, match=r"d\.safetensors in .* cannot be read: .*Expected a whole safetensors file"):
        CNNEncoder.from_pretrained("resnet18", tmp_path / "d.safetensors")


@pytest.mark.plain
def test_says_why_one_small_image_cannot_be_trained_on():
    encoder = CNNEncoder("resnet18", size=32)
    one = Input(torch.randn(1, 3, 32, 32), torch.tensor([True]))

    assert encoder.eval()(one).pooled.isfinite().all()
    with pytest.raises(ValueError, match=r"cannot train on a batch of shape \(1, 3, 32, 32\): .* Choose a batch_size"):
        encoder.train()(one)


@pytest.mark.plain
def test_says_that_there_is_no_network(monkeypatch):
    from torchvision import models

    def fail(self, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", fail)

    with pytest.raises(
        ValueError, match=r"not download the weights of 'resnet18': Name.*Expected a network.*Give a local"
    ):
        CNNEncoder.from_pretrained("resnet18")
