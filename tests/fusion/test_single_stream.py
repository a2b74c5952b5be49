"""SingleStream equals its equation and keeps the promises."""

import pytest
import torch
from fusion_equations import assert_equals, linear, real_tokens, self_block

from mmfuse.fusion.single_stream import SingleStream
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion():
    check_fusion(lambda dims: SingleStream(dims, 8))


@pytest.mark.plain
def test_keeps_them_for_two_modalities_and_other_arguments():
    check_fusion(
        lambda dims: SingleStream(dims, 8, num_heads=2, num_layers=1, dropout=0.0), dims={"text": 6, "audio": 4}
    )


@pytest.mark.parametrize("names", [["text", "audio", "image"], ["text"]])
def test_equals_its_equation(names):
    torch.manual_seed(0)
    fusion = SingleStream({name: DIMS[name] for name in names}, 8, num_heads=2).double().eval()
    features = {name: x for name, x in random_features().items() if name in names}

    fused = fusion(features)

    for i in range(6):
        stream = [fusion.cls]
        for name, tokens in real_tokens(features, i).items():
            stream += [linear(fusion.join.project[name], x) for x in tokens]
        for block in fusion.blocks:
            stream = self_block(block, stream)
        stream = [fusion.norm(x) for x in stream]
        assert_equals(fused, i, stream[0], stream)


def test_a_sample_with_nothing_keeps_cls():
    torch.manual_seed(0)
    fusion = SingleStream(DIMS, 8).double().eval()
    features = random_features()

    fused = fusion(features)

    alone = fusion.cls[None, None]
    for block in fusion.blocks:
        alone = block(alone)
    torch.testing.assert_close(fused.features.pooled[5], fusion.norm(alone)[0, 0])
    assert not fused.features.present[5]


def test_drops_only_in_training():
    torch.manual_seed(0)
    fusion = SingleStream(DIMS, 8, dropout=0.5).double()
    features = random_features()

    one, other = fusion(features).features.pooled, fusion(features).features.pooled

    assert not torch.equal(one, other)
    fusion.eval()
    assert torch.equal(fusion(features).features.pooled, fusion(features).features.pooled)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 10}, "cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12"),
        ({"dim": 8, "num_layers": 0}, "SingleStream got num_layers=0. Expected a number above 0"),
        ({"dim": 8, "dropout": 1.0}, "SingleStream got dropout=1.0. Expected a share from 0 to below 1"),
    ],
)
def test_a_fusion_that_cannot_work_is_not_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        SingleStream(DIMS, **arguments)
