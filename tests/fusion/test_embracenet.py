"""EmbraceNet: its promises, its equation and its draws."""

import pytest
import torch
from fusion_equations import linear

from mmfuse.contracts import Features
from mmfuse.fusion.embracenet import EmbraceNet
from mmfuse.testing import DIMS, check_fusion, random_features

GIVEN = {"text": 1.0, "audio": 2.0, "image": 5.0}


@pytest.mark.plain
@pytest.mark.parametrize("given", [False, True], ids=["equal", "given"])
def test_keeps_the_promises_of_a_fusion(given):
    check_fusion(
        lambda dims: EmbraceNet(dims, 8, probabilities={n: i + 1 for i, n in enumerate(dims)} if given else None)
    )


@pytest.mark.plain
def test_two_modalities_keep_the_promises_too():
    check_fusion(lambda dims: EmbraceNet(dims, 8), dims={"text": 6, "audio": 4})


def docked(fusion, features, i):
    """The docking layers of the modalities that one sample has."""
    return {
        name: linear(fusion.dock[name], x.pooled[i]).clamp_min(0) for name, x in features.items() if x.mask[i].any()
    }


@pytest.mark.parametrize("given", [None, GIVEN])
def test_evaluation_is_the_expectation(given):
    torch.manual_seed(0)
    fusion, features = EmbraceNet(DIMS, 8, probabilities=given).double().eval(), random_features()
    fusion.p = torch.tensor([given[name] if given else 1.0 for name in DIMS], dtype=torch.float64)  # exact

    fused = fusion(features)

    for i in range(6):
        parts = docked(fusion, features, i)
        size = {name: given[name] if given else 1.0 for name in parts}
        expected = torch.zeros(8, dtype=torch.float64)
        for name, part in parts.items():
            share = size[name] / sum(size.values())
            expected = expected + share * part
            assert fused.weights[name][i].item() == pytest.approx(share, abs=1e-12)
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)


def test_training_draws_each_coordinate_from_one_present_modality():
    torch.manual_seed(0)
    fusion, features = EmbraceNet(DIMS, 64).double(), random_features()

    pooled = fusion(features).features.pooled

    for i in range(5):
        parts = torch.stack(list(docked(fusion, features, i).values()))  # (present modality, dim)
        distance = (parts - pooled[i]).abs().min(dim=0).values
        torch.testing.assert_close(distance, torch.zeros_like(distance), rtol=0, atol=1e-12)
    assert pooled[5].eq(0).all()


def test_modalities_are_drawn_as_often_as_they_are_probable():
    torch.manual_seed(0)
    fusion = EmbraceNet(DIMS, 20_000, probabilities=GIVEN)
    features = {name: Features(x.tokens.float(), x.mask, x.pooled.float()) for name, x in random_features().items()}
    with torch.no_grad():
        for place, layer in enumerate(fusion.dock.values()):
            layer.weight.zero_()
            layer.bias.fill_(place + 1.0)  # the value says where a coordinate comes from

    pooled = fusion(features).features.pooled

    shares = [[(pooled[i] == place + 1).float().mean().item() for place in range(3)] for i in range(5)]
    assert shares[0] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.02)
    assert shares[1] == pytest.approx([0, 2 / 7, 5 / 7], abs=0.02)
    assert shares[2] == pytest.approx([1 / 6, 0, 5 / 6], abs=0.02)
    assert shares[3] == pytest.approx([1 / 3, 2 / 3, 0], abs=0.02)
    assert shares[4] == [1, 0, 0]


def test_the_draw_follows_the_global_seed():
    torch.manual_seed(0)
    fusion, features = EmbraceNet(DIMS, 64).double(), random_features()

    first, second = fusion(features).features.pooled, fusion(features).features.pooled
    torch.manual_seed(7)
    third = fusion(features).features.pooled
    torch.manual_seed(7)
    fourth = fusion(features).features.pooled

    assert not torch.equal(first, second)
    torch.testing.assert_close(third, fourth, rtol=0, atol=0)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": 1.0}, r"EmbraceNet\(probabilities=...\) got no \['audio', 'image'\], only \['text'\]"),
        ({**GIVEN, "vidoe": 1.0}, "unknown modality 'vidoe'"),
        ({**GIVEN, "text": 0.0}, "got text=0.0. Expected a number above 0"),
    ],
)
def test_refuses_probabilities_that_are_none(given, message):
    with pytest.raises(ValueError, match=message):
        EmbraceNet(DIMS, 8, probabilities=given)
