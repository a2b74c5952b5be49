"""CrossAttention equals its equation and keeps the promises."""

import pytest
import torch
from fusion_equations import exchange, feed_forward, linear, mean_readout

from mmfuse.fusion.cross_attention import CrossAttention
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
@pytest.mark.parametrize("arguments", [{}, {"num_heads": 2, "num_layers": 2, "dropout": 0.2}])
def test_keeps_the_promises_of_a_fusion(arguments):
    check_fusion(lambda dims: CrossAttention(dims, 8, **arguments))


@pytest.mark.plain
def test_keeps_them_for_two_modalities():
    check_fusion(lambda dims: CrossAttention(dims, 8), dims={"text": 6, "audio": 4})


@pytest.mark.parametrize("names", [["text", "audio", "image"], ["text", "audio"], ["text"]])
def test_equals_its_equation(names):
    torch.manual_seed(0)
    fusion = CrossAttention({name: DIMS[name] for name in names}, 8, num_heads=2, num_layers=2).double()
    features = {name: x for name, x in random_features().items() if name in names}

    fused = fusion(features)

    for i in range(6):
        z = {n: [linear(fusion.project[n], token) for token in x.tokens[i, x.mask[i]]] for n, x in features.items()}
        for layer in fusion.layers:
            z = exchange(layer.exchange, z) if len(names) > 1 else z
            z = {n: [y + feed_forward(layer.feed_forward[n], layer.norm[n](y)) for y in z[n]] for n in z}
        torch.testing.assert_close(fused.features.pooled[i], mean_readout(fusion.readout, z), rtol=0, atol=1e-12)
        tokens = [fusion.readout.norm[name](x) for name in names for x in z[name]]
        assert len(tokens) == fused.features.mask[i].sum()
        for token, expected in zip(fused.features.tokens[i, fused.features.mask[i]], tokens, strict=True):
            torch.testing.assert_close(token, expected, rtol=0, atol=1e-12)


def test_the_one_token_of_a_pair_is_read_whatever_the_query_says():
    torch.manual_seed(0)
    fusion = CrossAttention({"text": 6, "audio": 4}, 8).double()
    features = {name: x for name, x in random_features().items() if name != "image"}
    features["audio"] = type(features["audio"]).from_pooled(features["audio"].pooled, features["audio"].present)
    before = fusion(features).features.pooled

    with torch.no_grad():
        fusion.layers[0].exchange.query_key_value["text"].weight[:8].normal_()

    torch.testing.assert_close(fusion(features).features.pooled, before)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 10}, "CrossAttention cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12"),
        ({"dim": 8, "num_layers": 0}, "CrossAttention got num_layers=0. Expected a number above 0"),
        ({"dim": 8, "dropout": 1.0}, "CrossAttention got dropout=1.0. Expected a share from 0 to below 1"),
    ],
)
def test_one_that_cannot_work_is_not_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossAttention({"text": 4, "audio": 4}, **arguments)
