"""CoAttention equals its equation and keeps the promises."""

import pytest
import torch
from fusion_equations import exchange, linear, mean_readout, self_block

from mmfuse.fusion.co_attention import CoAttention
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion():
    check_fusion(lambda dims: CoAttention(dims, 8))


@pytest.mark.plain
def test_keeps_them_for_two_modalities():
    check_fusion(lambda dims: CoAttention(dims, 8, num_heads=2, num_layers=1), dims={"text": 6, "audio": 4})


@pytest.mark.parametrize("names", [["text", "audio", "image"], ["text", "audio"], ["text"]])
def test_equals_its_equation(names):
    torch.manual_seed(0)
    fusion = CoAttention({name: DIMS[name] for name in names}, 8, num_heads=2, num_layers=2).double().eval()
    features = {name: x for name, x in random_features().items() if name in names}

    fused = fusion(features)

    for i in range(6):
        z = {n: [linear(fusion.project[n], token) for token in x.tokens[i, x.mask[i]]] for n, x in features.items()}
        for layer in fusion.layers:
            z = exchange(layer.exchange, z) if len(names) > 1 else z
            z = {name: self_block(layer.stream[name], tokens) for name, tokens in z.items()}
        torch.testing.assert_close(fused.features.pooled[i], mean_readout(fusion.readout, z), rtol=0, atol=1e-12)


def test_streams_are_updated_at_once():
    """What a stream reads in the first layer does not depend on how the other has changed in it."""
    torch.manual_seed(0)
    fusion = CoAttention({"text": 6, "audio": 4}, 8, num_layers=1).double().eval()
    features = {name: x for name, x in random_features().items() if name != "image"}
    before = fusion(features).features.tokens[:, :5]  # of text

    with torch.no_grad():
        fusion.layers[0].exchange.out["audio"].weight.normal_()

    assert torch.equal(fusion(features).features.tokens[:, :5], before)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 10}, "CoAttention cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12"),
        ({"dim": 8, "num_layers": 0}, "CoAttention got num_layers=0. Expected a number above 0"),
        ({"dim": 8, "dropout": 1.0}, "CoAttention got dropout=1.0. Expected a share from 0 to below 1"),
    ],
)
def test_one_that_cannot_work_is_not_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoAttention({"text": 4, "audio": 4}, **arguments)
