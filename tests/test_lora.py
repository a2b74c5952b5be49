"""Low-rank adapters round pretrained encoders."""

import copy
import sys

import pytest
import torch
from tiny_data import WORDS
from tiny_models import IMAGE_MODELS, SPEECH_MODELS, TEXT_MODELS, clips, require_finite_gradients
from torch import nn

import mmfuse
from mmfuse import Batch, Input, MultimodalModel, Target
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import CNNEncoder, LoRA, SkipAbsent, SpeechEncoder, TextEncoder, Video3DEncoder, VideoEncoder
from mmfuse.encoders import ViTEncoder as ViT
from mmfuse.fusion import Concat
from mmfuse.losses import Sum
from mmfuse.tasks import Regression
from mmfuse.training import Unfreezing, check_partition, make_optimizer, parameter_groups, train_epoch


def tokenizer():
    return train_tokenizer(WORDS, vocab_size=60)


def images(size=32, count=3, dtype=torch.float32):
    values = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return Input(values, torch.ones(count, dtype=torch.bool))


def texts():
    ids = torch.randint(5, 30, (3, 6), generator=torch.Generator().manual_seed(0))
    return Input(ids, torch.ones(3, dtype=torch.bool), torch.arange(6) < torch.tensor([[6], [4], [2]]))


def frames():
    values = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Input(values, torch.ones(2, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool))


FEED_FORWARD = {"targets": ["intermediate_dense", "output_dense"]}
CASES = {
    **{n: (lambda c=c, n=n: ViT({"model_type": n, **c}), images, {}) for n, c in IMAGE_MODELS.items()},
    **{
        n: (lambda c=c, n=n: TextEncoder({"model_type": n, **c}, tokenizer()), texts, {})
        for n, c in TEXT_MODELS.items()
    },
    **{
        n: (lambda c=c: SpeechEncoder(c), lambda: clips([900, 1600]), FEED_FORWARD if "wavlm" in n else {})
        for n, c in SPEECH_MODELS.items()
        if n.endswith("group")
    },
    "resnet18": (lambda: CNNEncoder("resnet18", size=32, dim=8), images, {"targets": ["conv2"]}),
    "frames": (lambda: VideoEncoder(SkipAbsent(ViT.preset("tiny"))), frames, {}),
}


def move(encoder):
    """Adapters that are no longer at their start."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in encoder.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


# WavLM asks torch for masks of two types.
@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_an_adapted_encoder_begins_as_it_was_learns_by_its_adapters_and_can_be_merged(name):
    torch.manual_seed(0)
    make, inputs, options = CASES[name]
    encoder, input = make().eval(), inputs()
    plain = copy.deepcopy(encoder)

    adapted = LoRA(encoder, rank=2, alpha=4, **options).eval()

    expected = plain(input)
    torch.testing.assert_close(adapted(input).tokens, expected.tokens, rtol=1e-5, atol=1e-6)
    inside = {n for n, p in adapted.backbone.named_parameters() if p.requires_grad}
    assert inside and all("lora_" in n for n in inside)
    beside = {n for n, _ in plain.named_parameters()} - {f"backbone.{n}" for n, _ in plain.backbone.named_parameters()}
    if name in ("resnet18",):  # a new layer beside the backbone
        assert beside and all(adapted.encoder.get_parameter(n).requires_grad for n in beside)
    move(adapted)
    require_finite_gradients(adapted, adapted(input))  # none is passed over
    assert all(p.grad.abs().max() > 0 for n, p in adapted.named_parameters() if "lora_" in n)
    merged = adapted.merge()
    assert type(merged) is type(plain)
    assert list(merged.state_dict()) == list(plain.state_dict())
    assert {n for n, p in merged.named_parameters() if p.requires_grad} == {
        n for n, p in plain.named_parameters() if p.requires_grad
    }
    found, now = merged(input), adapted(input)
    assert not torch.allclose(now.tokens, expected.tokens, atol=1e-3)
    torch.testing.assert_close(found.tokens, now.tokens, rtol=1e-4, atol=1e-5)


def test_merging_is_exact_in_float64():
    torch.manual_seed(0)
    adapted = LoRA(ViT.preset("tiny"), rank=4).double().eval()
    move(adapted)

    merged = adapted.merge()

    input = images(dtype=torch.float64)
    torch.testing.assert_close(merged(input).tokens, adapted(input).tokens, rtol=0, atol=1e-12)


def model_of(encoder):
    return MultimodalModel({"image": encoder}, Concat({"image": encoder.dim}, 8), {"y": Regression(8)})


def batch():
    input = images()
    return Batch({"image": input}, {"y": Target(torch.randn(3), torch.ones(3, dtype=torch.bool))})


@pytest.mark.parametrize("wrap", [lambda encoder: encoder, SkipAbsent])
def test_a_model_with_adapters_survives_save_and_load(tmp_path, wrap):
    torch.manual_seed(0)
    model = model_of(wrap(LoRA(ViT.preset("tiny"), rank=2, alpha=3, targets=["q_proj", "fc1"]))).eval()
    move(model)

    mmfuse.save(model, tmp_path / "model")
    loaded = mmfuse.load(tmp_path / "model")

    for (name, value), other in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    torch.testing.assert_close(loaded(batch()).predictions["y"], model(batch()).predictions["y"], rtol=0, atol=0)
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


def test_training_moves_the_adapters_and_nothing_else_of_the_backbone():
    torch.manual_seed(0)
    encoder = ViT.preset("tiny")
    encoder.pretrained = True
    model = model_of(SkipAbsent(LoRA(encoder, rank=2)))
    before = copy.deepcopy(model.state_dict())
    groups = parameter_groups(model, learning_rate=0.01, layer_decay=0.5)
    check_partition(groups, [model])
    assert {group["name"] for group in groups} == {"new, decayed", "new, not decayed"}  # adapters learn at full rate

    list(train_epoch(model, [batch(), batch()], weigh=Sum(), optimizer=make_optimizer(groups)))

    inside = {n: x for n, x in model.state_dict().items() if n.startswith("encoders")}
    moved = {n for n, x in inside.items() if not torch.equal(x, before[n])}
    assert moved == {n for n in inside if "lora_" in n}


def test_adapters_can_wait_for_their_epoch():
    model = model_of(LoRA(ViT.preset("tiny"), rank=2))
    every = {n for n, p in model.named_parameters() if p.requires_grad}
    plan = Unfreezing(model, {"image": 2})

    plan.apply(1)
    frozen = {n for n, p in model.named_parameters() if p.requires_grad}
    plan.apply(2)

    assert not [n for n in frozen if "lora_" in n]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == every


def test_it_tells_how_many_parameters_are_trained():
    adapted = LoRA(ViT.preset("tiny"), rank=2)

    adapters = 2 * 2 * (2 * 64 + 64 * 2)  # layers, projections, A and B
    assert f"rank=2, {adapters:,} of {sum(p.numel() for p in adapted.parameters()):,} parameters trained" in repr(
        adapted
    )


@pytest.mark.plain
def test_what_does_not_fit_is_said(monkeypatch):
    with pytest.raises(TypeError, match=r"LoRA got a Linear. Expected an encoder: a module with the width"):
        LoRA(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"no layer in Sequential for targets=None.* Choose among \['0', .*conv1'"):
        LoRA(CNNEncoder("resnet18", size=32))
    with pytest.raises(ValueError, match=r"no layer in ViTModel for targets=\['qproj'\].* Choose among .*'q_proj'"):
        LoRA(ViT.preset("tiny"), targets=["qproj"])
    wavlm = SPEECH_MODELS["wavlm-group"]
    with pytest.raises(ValueError, match=r"found no layer in WavLMModel.* Choose among \[.*'output_dense'.*\]"):
        LoRA(SpeechEncoder(wavlm))
    with pytest.raises(ValueError, match=r"cannot adapt 'encoder.layers.0.attention.q_proj': WavLMAttention takes its"):
        LoRA(SpeechEncoder(wavlm), targets=["q_proj"])
    with pytest.raises(ValueError, match=r"cannot adapt 'features.0.0.attn.qkv': ShiftedWindowAttention3d takes its"):
        LoRA(Video3DEncoder.preset("tiny"), targets=["qkv"])
    with pytest.raises(ValueError, match=r"LoRA got rank=0. Expected a number above 0"):
        LoRA(ViT.preset("tiny"), rank=0)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"LoRA needs peft. .* pip install 'mmfuse\[peft\]'"):
        LoRA(ViT.preset("tiny"))
