"""Promises and equations of the fusion methods."""

import pytest
import torch

from mmfuse.contracts import Features
from mmfuse.fusion import FUSIONS, Concat, CrossAttention, WeightedAverage
from mmfuse.testing import DIMS, check_fusion, random_features

MAKE = {
    "concat": lambda dims: Concat(dims, 8),
    "weighted average, learned": lambda dims: WeightedAverage(dims, 8),
    "weighted average, given": lambda dims: WeightedAverage(dims, 8, weights={n: i + 1 for i, n in enumerate(dims)}),
    "cross attention": lambda dims: CrossAttention(dims, 8),
    "cross attention, two layers": lambda dims: CrossAttention(dims, 8, num_heads=2, num_layers=2),
}


@pytest.mark.plain
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_keeps_the_promises_of_a_fusion(make):
    check_fusion(make)


@pytest.mark.plain
@pytest.mark.parametrize("name", FUSIONS)
def test_two_modalities_keep_the_promises_too(name):
    check_fusion(lambda dims: FUSIONS[name](dims, 8), dims={"text": 6, "audio": 4})


@pytest.mark.parametrize("name", FUSIONS)
def test_a_single_modality_goes_through_the_same_interface(name):
    features = {"text": random_features()["text"]}
    fusion = FUSIONS[name]({"text": DIMS["text"]}, 8).double()

    fused = fusion(features)
    fused.features.pooled.sum().backward()

    assert fused.features.pooled.shape == (6, 8)
    assert torch.equal(fused.features.present, features["text"].present)
    assert all(parameter.grad is not None for parameter in fusion.parameters())
    for weight in fused.weights.values():
        torch.testing.assert_close(weight, features["text"].present.double())


@pytest.mark.parametrize("name", FUSIONS)
def test_survives_a_round_trip_through_the_state_dict(name):
    first, second = (FUSIONS[name](DIMS, 8).double() for _ in range(2))
    features = random_features()

    second.load_state_dict(first.state_dict())

    assert torch.equal(first(features).features.pooled, second(features).features.pooled)


@pytest.mark.parametrize("name", FUSIONS)
def test_bfloat16_autocast_agrees_with_float32(name):
    torch.manual_seed(0)
    fusion = FUSIONS[name](DIMS, 8)
    features = {name: Features(x.tokens.float(), x.mask, x.pooled.float()) for name, x in random_features().items()}

    exact = fusion(features).features.pooled
    with torch.autocast("cpu", torch.bfloat16):
        rough = fusion(features).features.pooled.float()

    assert torch.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.999


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Concat({}, 8), "Concat got no modalities. Expected dims such as"),
        (lambda: Concat({"text": 0}, 8), "Concat got text=0. Expected a number above 0."),
        (lambda: Concat({"values": 4}, 8), "A modality cannot be named 'values', because nn.ModuleDict has that name"),
        (
            lambda: CrossAttention({"text": 4, "audio": 4}, 10),
            "cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12",
        ),
        (lambda: CrossAttention({"text": 4}, 8, num_layers=0), "CrossAttention got num_layers=0"),
        (lambda: WeightedAverage(DIMS, 8, weights={"text": 1.0}), r"got no \['audio', 'image'\], only \['text'\]"),
        (lambda: WeightedAverage({"text": 4}, 8, weights={"text": 1, "imgae": 1}), "unknown modality 'imgae'"),
        (lambda: WeightedAverage({"text": 4}, 8, weights={"text": -1.0}), "got text=-1.0. Expected a number above 0"),
    ],
)
def test_a_fusion_that_cannot_work_is_not_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
