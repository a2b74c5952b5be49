"""Vision transformers of several families behind one encoder: absence, freezing, loading, compiling."""

import json

import pytest
import torch
from tiny_models import IMAGE_MODELS, VIT, relative_error, require_finite_gradients

from mmfuse import Input
from mmfuse._record import arguments_of
from mmfuse.data.transforms import ImageTransform
from mmfuse.encoders import ViTEncoder


def make(family, **options):
    torch.manual_seed(0)
    return ViTEncoder.from_config({"model_type": family} | IMAGE_MODELS[family], **options).eval()


def images(present=(True, False, True, True), size=32, fill=float("nan")):
    present = torch.tensor(present)
    values = torch.randn(len(present), 3, size, size, generator=torch.Generator().manual_seed(1))
    values[~present] = fill
    return Input(values, present)


def save(family, folder):
    """A model of transformers with random weights, saved as a user would find it."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(3)
    model = AutoModel.from_config(AutoConfig.for_model(family, **IMAGE_MODELS[family])).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", IMAGE_MODELS)
def test_a_sample_alone_is_the_same_as_in_a_batch_beside_absent_ones(family):
    encoder, batch = make(family), images()

    features = encoder(batch)

    for i in (0, 2, 3):
        alone = encoder(Input(batch.values[i : i + 1], batch.present[i : i + 1]))
        assert relative_error(features.tokens[i], alone.tokens[0]) <= 1e-5
        assert relative_error(features.pooled[i], alone.pooled[0]) <= 1e-5
    assert features.mask.tolist() == [[bool(p)] * features.mask.shape[1] for p in batch.present]


@pytest.mark.parametrize("family", IMAGE_MODELS)
def test_every_parameter_learns_and_nan_in_absent_images_reaches_none(family):
    encoder = make(family).train()

    features = encoder(images())

    require_finite_gradients(encoder, features)


def test_pixels_of_uint8_are_normalised_here_and_floats_are_taken_as_they_are(tmp_path):
    save("vit", tmp_path)
    mean, std = [0.1, 0.2, 0.3], [0.5, 1.0, 2.0]
    for encoder in (make("vit", mean=mean, std=std), ViTEncoder.from_pretrained(tmp_path).eval()):
        pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
        present = torch.tensor([True, False, True])
        centre, spread = (torch.tensor(x).reshape(3, 1, 1) for x in (encoder.mean, encoder.std))
        expected = encoder(Input((pixels / 255 - centre) / spread, present))

        features = encoder(Input(pixels, present))

        pixels[1] = 255  # what stands in for an absent image is never read
        again = encoder(Input(pixels, present))
        torch.testing.assert_close(features.tokens, expected.tokens, rtol=1e-5, atol=1e-5)
        assert torch.equal(features.tokens, again.tokens)
        for i in (0, 2):
            alone = encoder(Input(pixels[i : i + 1], present[i : i + 1]))
            assert relative_error(features.tokens[i], alone.tokens[0]) <= 1e-5
        assert not any("pixels" in name for name in encoder.state_dict())


@pytest.mark.parametrize("family", ["vit", "dinov2", "siglip_vision_model"])
def test_a_batch_without_any_image_gives_finite_gradients(family):
    encoder = make(family).train()

    features = encoder(images(present=(False, False)))

    assert not features.mask.any()
    require_finite_gradients(encoder, features)


@pytest.mark.parametrize("family", IMAGE_MODELS)
def test_a_saved_model_gives_the_same_tokens_as_in_transformers(family, tmp_path):
    theirs = save(family, tmp_path)
    batch = images(present=(True, True))

    encoder = ViTEncoder.from_pretrained(tmp_path).eval()

    with torch.no_grad():
        output = theirs(batch.values)
    features = encoder(batch)
    tokens = theirs.post_layernorm(output.last_hidden_state) if "clip" in family else output.last_hidden_state
    torch.testing.assert_close(features.tokens, tokens)
    assert encoder.pretrained
    if family == "siglip_vision_model":
        torch.testing.assert_close(features.pooled, tokens.mean(dim=1))
    elif family in ("clip_vision_model", "dinov2", "swin"):
        torch.testing.assert_close(features.pooled, output.pooler_output)
    else:
        torch.testing.assert_close(features.pooled, tokens[:, 0])


def test_the_image_half_of_a_clip_model_is_found(tmp_path):
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    text = CLIPTextConfig(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=1)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=CLIPVisionConfig(**VIT).to_dict())).eval()
    model.save_pretrained(tmp_path)
    batch = images(present=(True, True))

    encoder = ViTEncoder.from_pretrained(tmp_path).eval()

    with torch.no_grad():
        expected = model.vision_model(batch.values).pooler_output
    torch.testing.assert_close(encoder(batch).pooled, expected)


def test_the_transform_has_the_size_mean_and_std_of_the_weights(tmp_path):
    from transformers import ViTImageProcessor

    save("vit", tmp_path)
    ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3]
    ).save_pretrained(tmp_path)

    encoder = ViTEncoder.from_pretrained(tmp_path)

    transform = encoder.transform()
    assert isinstance(transform, ImageTransform)
    assert (transform.size, encoder.mean, encoder.std) == (32, [0.1, 0.2, 0.3], [1, 2, 3])
    assert not transform.random
    assert encoder.transform(train=True).random
    assert encoder(Input(transform.blank()[None], torch.tensor([False]))).pooled.shape == (1, encoder.dim)


@pytest.mark.parametrize("freeze, layers", [("all", 2), (0, 0), (1, 1), (2, 2)])
def test_frozen_parts_do_not_learn_and_stay_in_evaluation_mode(freeze, layers):
    encoder = make("vit", freeze=freeze).train()

    frozen = [encoder.backbone.embeddings, *encoder.backbone.layers[:layers]]

    assert not any(part.training or any(p.requires_grad for p in part.parameters()) for part in frozen)
    assert all(part.training for part in encoder.backbone.layers[layers:])
    assert all(p.requires_grad for part in encoder.backbone.layers[layers:] for p in part.parameters())
    assert encoder.backbone.layernorm.weight.requires_grad == (freeze != "all")
    if freeze != "all":
        require_finite_gradients(encoder, encoder(images()))


def test_checkpointing_gives_the_same_gradients():
    plain, saving = make("vit").train(), make("vit", checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())

    for encoder in (plain, saving):
        encoder(images()).zeroed().pooled.square().sum().backward()

    assert all(layer.gradient_checkpointing for layer in saving.backbone.layers)
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_another_size_interpolates_the_positions():
    encoder = make("vit", size=48)

    features = encoder(images(size=48))

    assert features.tokens.shape == (4, 1 + 36, 32)
    assert encoder.transform().size == 48


@pytest.mark.plain
@pytest.mark.parametrize("family", ["vit", "dinov2", "swin"])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")  # in transformers
def test_compiles_whole(family, train):
    torch._dynamo.reset()
    encoder, batch = make(family).train(train), images()
    expected = encoder(batch)

    features = torch.compile(encoder, fullgraph=True, backend="eager")(batch)

    assert torch.equal(features.mask, expected.mask)
    if not train:
        torch.testing.assert_close(features.zeroed().pooled, expected.zeroed().pooled)


def test_works_in_half_precision():
    encoder = make("vit")

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(images())

    assert features.zeroed().pooled.isfinite().all()


def test_remembers_how_it_was_built():
    encoder = ViTEncoder.preset("tiny", size=16)

    again = ViTEncoder(**arguments_of(encoder))

    assert again.load_state_dict(encoder.state_dict())
    assert not again.pretrained


def test_the_transform_gives_what_the_encoder_takes():
    encoder = make("vit")
    picture = torch.randint(0, 256, (3, 50, 40), dtype=torch.uint8)
    transform = encoder.transform(train=True)

    values = torch.stack([transform(picture), transform.blank()])

    features = encoder.train()(Input(values, torch.tensor([True, False])))
    require_finite_gradients(encoder, features)
    assert encoder.bfloat16()(Input(values, torch.tensor([True, False]))).pooled.dtype == torch.bfloat16


@pytest.mark.plain
def test_exports_with_pixels_of_uint8():
    encoder = make("vit")
    batch = Input(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), torch.tensor([True, False]))

    exported = torch.export.export(encoder, (batch,)).module()

    torch.testing.assert_close(exported(batch).tokens, encoder(batch).tokens)


@pytest.mark.plain
def test_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"ViTEncoder got mean=\[0\.5\].*Expected three values each.*Repeat"):
        make("vit", mean=[0.5], std=[0.5, 0.5])
    with pytest.raises(ValueError, match=r"ViTEncoder got size=0\. Expected a number above 0"):
        make("vit", size=0)
    grey = ViTEncoder({"model_type": "vit"} | VIT | {"num_channels": 1})
    with pytest.raises(ValueError, match=r"uint8 images with 1 channels, but means of 3\. Expected equal.*Build"):
        grey(Input(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), torch.tensor([True])))
    with pytest.raises(ValueError, match=r"neither a folder nor a hub model named 'no/such'.*Check the spelling"):
        ViTEncoder.from_pretrained("no/such")
    with pytest.raises(ValueError, match=r"model_type='vitt'.*Expected a model type.*Did you mean 'vit'"):
        ViTEncoder({"model_type": "vitt"})
    with pytest.raises(ValueError, match=r"has no preset 'tny'.*\['small', 'tiny'\].*Did you mean 'tiny'"):
        ViTEncoder.preset("tny")
    with pytest.raises(ValueError, match=r"freeze=3\. Expected 'none', 'all', or a number from 0 to 2.*Use freeze="):
        make("vit", freeze=3)
    with pytest.raises(ValueError, match=r"freeze='some'\. Expected 'none', 'all'"):
        make("vit", freeze="some")
    with pytest.raises(ValueError, match=r"vit model with attention='nonsense'.*Expected a kernel.*Use attention=None"):
        make("vit", attention="nonsense")
    with pytest.raises(ValueError, match=r"shape \(4, 3, 48, 48\).*channel=3, height=32, width=32.*transform\(\)"):
        make("vit")(images(size=48))
    with pytest.raises(ValueError, match=r"image_size=\[32, 16\]\. Expected square images\. Set image_size"):
        ViTEncoder({"model_type": "vit"} | VIT | {"image_size": [32, 16]})
    with pytest.raises(ValueError, match=r"cannot build a model of model_type='siglip_text_model'.*Expected.*Give"):
        ViTEncoder({"model_type": "siglip_text_model", "image_size": 32})
    with pytest.raises(
        ValueError, match=r"pool='first', but SwinModel has no class token\. Expected pool='mean'\. Leave"
    ):
        make("swin", pool="first")


@pytest.mark.plain
def test_says_that_the_weights_do_not_fit(tmp_path):
    model = save("vit", tmp_path)
    weights = tmp_path / "model.safetensors"

    weights.rename(tmp_path / "model.bin")
    with pytest.raises(
        ValueError, match=r"no weights that it reads\. Expected a file model\.safetensors.*save_pretrained"
    ):
        ViTEncoder.from_pretrained(tmp_path)

    model.save_pretrained(
        tmp_path, state_dict={k: v for k, v in model.state_dict().items() if "layernorm_before" not in k}
    )
    with pytest.raises(ValueError, match=r"no weights in .* for 4 parameters.*Expected those of a vit model\. Choose"):
        ViTEncoder.from_pretrained(tmp_path)

    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 16}))
    with pytest.raises(ValueError, match=r"cannot take the weights in .*Expected a whole file that fits.*Copy"):
        ViTEncoder.from_pretrained(tmp_path)

    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cannot take the weights in .*: Error while deserializing.*Expected a whole"):
        ViTEncoder.from_pretrained(tmp_path)
