"""HealNet equals its equation and keeps the promises."""

import pytest
import torch
from fusion_equations import assert_equals, cross_block, linear, real_tokens, self_block

from mmfuse.fusion.healnet import HealNet
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion():
    check_fusion(lambda dims: HealNet(dims, 8))


@pytest.mark.plain
def test_keeps_them_for_two_modalities_and_other_arguments():
    check_fusion(
        lambda dims: HealNet(dims, 8, num_latents=3, num_rounds=1, num_heads=2, dropout=0.2),
        dims={"text": 6, "audio": 4},
    )


@pytest.mark.parametrize("names", [["text", "audio", "image"], ["text"]])
def test_equals_its_equation(names):
    torch.manual_seed(0)
    dims = {name: DIMS[name] for name in names}
    fusion = HealNet(dims, 8, num_latents=3, num_rounds=2, num_heads=2).double()
    features = {name: x for name, x in random_features().items() if name in names}

    fused = fusion(features)

    for i in range(6):
        tokens = real_tokens(features, i)
        latents = list(fusion.latents)
        for name in sorted(names) * 2:
            if tokens[name]:
                keys = [linear(fusion.project[name], x) for x in tokens[name]]
                latents = self_block(fusion.block, cross_block(fusion.cross[name], latents, keys))
        latents = [fusion.norm(x) for x in latents]
        assert_equals(fused, i, sum(latents) / 3, latents)


def test_an_absent_modality_is_skipped_as_if_the_model_had_none():
    torch.manual_seed(0)
    fusion = HealNet(DIMS, 8).double()
    without = HealNet({"text": DIMS["text"], "audio": DIMS["audio"]}, 8).double()
    without.load_state_dict({name: x for name, x in fusion.state_dict().items() if "image" not in name})
    features = random_features()
    features["image"].mask[:] = False

    found = fusion(features).features.pooled
    expected = without({"text": features["text"], "audio": features["audio"]}).features.pooled

    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_order_of_modalities_is_that_of_their_names():
    torch.manual_seed(0)
    fusion, other = HealNet(DIMS, 8).double(), HealNet(dict(reversed(DIMS.items())), 8).double()
    other.load_state_dict(fusion.state_dict())
    features = random_features()

    assert list(fusion.cross) == sorted(DIMS)
    assert torch.equal(other(features).features.pooled, fusion(features).features.pooled)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 10}, "cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12"),
        ({"dim": 8, "num_latents": 0}, "HealNet got num_latents=0. Expected a number above 0"),
        ({"dim": 8, "num_rounds": 0}, "HealNet got num_rounds=0. Expected a number above 0"),
        ({"dim": 8, "dropout": 1}, "HealNet got dropout=1. Expected a share from 0 to below 1"),
    ],
)
def test_a_fusion_that_cannot_work_is_not_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        HealNet(DIMS, **arguments)
