"""PerceiverFusion equals its equation and keeps the promises."""

import pytest
import torch
from fusion_equations import assert_equals, attention_pool, cross_block, linear, real_tokens, self_block

from mmfuse.contracts import Features
from mmfuse.fusion.perceiver import PerceiverFusion
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion():
    check_fusion(lambda dims: PerceiverFusion(dims, 8))


@pytest.mark.plain
def test_keeps_them_for_two_modalities_and_other_arguments():
    check_fusion(
        lambda dims: PerceiverFusion(dims, 8, num_latents=3, num_rounds=1, num_layers=2, dropout=0.2),
        dims={"text": 6, "audio": 4},
    )


@pytest.mark.parametrize("names", [["text", "audio", "image"], ["text"]])
def test_equals_its_equation(names):
    torch.manual_seed(0)
    dims = {name: DIMS[name] for name in names}
    fusion = PerceiverFusion(dims, 8, num_latents=3, num_rounds=2, num_layers=2, num_heads=2).double()
    features = {name: x for name, x in random_features().items() if name in names}

    fused = fusion(features)

    for i in range(6):
        keys = [linear(fusion.join.project[name], x) for name, xs in real_tokens(features, i).items() for x in xs]
        latents = list(fusion.latents)
        for _ in range(2):
            latents = cross_block(fusion.cross, latents, keys)
            for block in fusion.blocks:
                latents = self_block(block, latents)
        latents = [fusion.norm(x) for x in latents]
        assert_equals(fused, i, attention_pool(fusion.pool, latents), latents)


def test_another_order_of_tokens_changes_nothing():
    torch.manual_seed(0)
    fusion = PerceiverFusion(DIMS, 8).double()
    features = random_features()
    backwards = {name: Features(x.tokens.flip(1), x.mask.flip(1), x.pooled) for name, x in features.items()}

    torch.testing.assert_close(fusion(backwards).features.pooled, fusion(features).features.pooled, rtol=0, atol=1e-12)


def test_a_token_of_another_modality_is_another_token():
    torch.manual_seed(0)
    fusion = PerceiverFusion({"left": 4, "right": 4}, 8).double()
    fusion.join.project["right"].weight = fusion.join.project["left"].weight
    one, other = (Features.from_pooled(torch.randn(2, 4).double(), torch.ones(2, dtype=torch.bool)) for _ in range(2))

    there = fusion({"left": one, "right": other}).features.pooled
    swapped = fusion({"left": other, "right": one}).features.pooled

    assert (there - swapped).abs().max() > 1e-6  # only the codes tell the two apart


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 10}, "cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12"),
        ({"dim": 8, "num_latents": 0}, "PerceiverFusion got num_latents=0. Expected a number above 0"),
        ({"dim": 8, "num_rounds": 0}, "PerceiverFusion got num_rounds=0. Expected a number above 0"),
        ({"dim": 8, "num_layers": 0}, "PerceiverFusion got num_layers=0. Expected a number above 0"),
        ({"dim": 8, "dropout": -0.1}, "PerceiverFusion got dropout=-0.1. Expected a share from 0 to below 1"),
    ],
)
def test_a_fusion_that_cannot_work_is_not_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        PerceiverFusion(DIMS, **arguments)
