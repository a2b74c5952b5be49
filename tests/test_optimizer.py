"""Groups of parameters: layer by layer."""

import pytest
import torch
from tiny_data import WORDS, make_model
from tiny_models import IMAGE_MODELS, SPEECH_MODELS, TEXT_MODELS

from mmfuse import MultimodalModel
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import CNNEncoder, SkipAbsent, SpeechEncoder, TextEncoder, Video3DEncoder, VideoEncoder, ViTEncoder
from mmfuse.encoders.stages import backbone_of, stages_of
from mmfuse.fusion import Concat
from mmfuse.tasks import Regression
from mmfuse.training import check_partition, make_optimizer, parameter_groups, warmup_cosine


def tokenizer():
    return train_tokenizer(WORDS, vocab_size=60)


ENCODERS = {
    **{name: lambda c=c, n=name: ViTEncoder({"model_type": n, **c}) for name, c in IMAGE_MODELS.items()},
    **{name: lambda c=c, n=name: TextEncoder({"model_type": n, **c}, tokenizer()) for name, c in TEXT_MODELS.items()},
    **{name: lambda c=c: SpeechEncoder(c) for name, c in SPEECH_MODELS.items() if name.endswith("layer")},
    "resnet18": lambda: CNNEncoder("resnet18", size=32),
    "convnext": lambda: CNNEncoder.preset("tiny"),
    "swin3d": lambda: Video3DEncoder.preset("tiny"),
    "frames": lambda: VideoEncoder(SkipAbsent(ViTEncoder.preset("tiny"))),
}


def model_of(encoder):
    return MultimodalModel({"x": encoder}, Concat({"x": encoder.dim}, 8), {"y": Regression(8)})


def rates(groups):
    return {id(parameter): group["lr"] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("name", ENCODERS)
def test_each_layer_learns_slower_than_the_one_above_it(name):
    torch.manual_seed(0)
    encoder = ENCODERS[name]()
    encoder.pretrained = True
    model = model_of(encoder)

    groups = parameter_groups(model, learning_rate=1.0, pretrained_learning_rate=0.5, layer_decay=0.8)

    check_partition(groups, [model])
    found, stages = rates(groups), stages_of(encoder)
    assert len(stages) >= 3
    seen = set()
    for above, parts in enumerate(reversed(stages)):
        for parameter in (p for part in parts for p in part.parameters()):
            assert found[id(parameter)] == pytest.approx(0.5 * 0.8**above)
            seen.add(id(parameter))
    inside = {id(p) for p in backbone_of(encoder).parameters()}
    for parameter in model.parameters():
        if id(parameter) not in seen:  # the last norm, and what is new
            assert found[id(parameter)] == (0.5 if id(parameter) in inside else 1.0)
    assert len(groups) <= 2 * (len(stages) + 1)


@pytest.mark.parametrize("name", ["bert", "vit", "wav2vec2-layer", "resnet18"])
def test_the_embeddings_are_the_lowest_and_the_stages_follow_each_other(name):
    torch.manual_seed(0)
    encoder = ENCODERS[name]()
    encoder.pretrained = True
    names = {id(p): n for n, p in encoder.backbone.named_parameters()}
    lowest = {"bert": "embeddings.", "vit": "embeddings.", "wav2vec2-layer": "feature_", "resnet18": "0."}[name]

    groups = parameter_groups(model_of(encoder), layer_decay=0.5)

    slowest = min(group["lr"] for group in groups)
    for group in groups:
        for parameter in group["params"]:
            if names.get(id(parameter), "").startswith(lowest):
                assert group["lr"] == slowest, names[id(parameter)]


def test_layers_of_several_encoders_that_stand_equally_deep_share_a_group():
    model = make_model()
    for name in ("image", "text"):  # two layers each
        model.encoders[name].pretrained = True

    groups = parameter_groups(model, layer_decay=0.9)

    check_partition(groups, [model])
    assert {group["name"] for group in groups} == {
        f"{kind}, {decay}"
        for kind in ("new", "pretrained", "pretrained 1 below the top", "pretrained 2 below the top")
        for decay in ("decayed", "not decayed")
    }


def test_without_decay_by_layer_the_groups_are_the_four_usual_ones():
    model = make_model()
    model.encoders["text"].pretrained = True

    assert len(parameter_groups(model)) == len(parameter_groups(model, layer_decay=1.0)) == 4


def test_the_schedule_keeps_the_proportions_of_the_layers():
    model = make_model()
    model.encoders["text"].pretrained = True
    optimizer = make_optimizer(parameter_groups(model, layer_decay=0.7))
    highest = [group["lr"] for group in optimizer.param_groups]
    schedule = warmup_cosine(optimizer, steps=10)

    for _ in range(4):
        optimizer.step()
        schedule.step()

    factors = {round(g["lr"] / h, 12) for g, h in zip(optimizer.param_groups, highest, strict=True)}
    assert len(factors) == 1
    assert 0 < factors.pop() < 1


def test_the_optimizer_is_fused():
    optimizer = make_optimizer(parameter_groups(make_model()))

    assert all(group["fused"] for group in optimizer.param_groups)


@pytest.mark.plain
@pytest.mark.parametrize("decay", [0.0, 1.2, float("nan")])
def test_a_decay_that_does_not_fit_is_refused(decay):
    with pytest.raises(ValueError, match=f"got layer_decay={decay}. Expected a number above 0, up to 1. Try 0.9"):
        parameter_groups(make_model(), layer_decay=decay)
