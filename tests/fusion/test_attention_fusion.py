"""AttentionFusion: its promises, its equation and its oddities."""

import pytest
import torch

from mmfuse.fusion.attention_fusion import AttentionFusion
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
@pytest.mark.parametrize("dims", [DIMS, {"text": 6, "audio": 4}], ids=["three", "two"])
def test_keeps_the_promises_of_a_fusion(dims):
    check_fusion(lambda dims: AttentionFusion(dims, 8), dims=dims)


def test_equals_its_equation():
    torch.manual_seed(0)
    fusion = AttentionFusion(DIMS, 8, score_dim=3).double()
    features = random_features()

    fused = fusion(features)

    for i in range(6):
        size, value = {}, {}
        for name, x in features.items():
            if x.mask[i].any():
                both = fusion.key_value[name].weight @ x.pooled[i] + fusion.key_value[name].bias
                size[name] = torch.exp(fusion.query.weight[0] @ torch.tanh(both[:3]) / 3)
                value[name] = both[3:]
        expected = torch.zeros(8, dtype=torch.float64)
        for name in size:
            share = size[name] / sum(size.values())
            expected = expected + share * value[name]
            torch.testing.assert_close(fused.weights[name][i], share, rtol=0, atol=1e-12)
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)


def test_a_query_of_zeros_averages_what_is_present():
    torch.manual_seed(0)
    fusion = AttentionFusion(DIMS, 8).double()
    torch.nn.init.zeros_(fusion.query.weight)

    weights = fusion(random_features()).weights

    assert [round(weights["text"][i].item(), 12) for i in range(6)] == [round(1 / 3, 12), 0, 0.5, 0.5, 1, 0]


def test_the_keys_are_as_wide_as_the_result_but_not_wider_than_64():
    assert AttentionFusion(DIMS, 8).query.in_features == 8
    assert AttentionFusion(DIMS, 128).query.in_features == 64
    assert AttentionFusion(DIMS, 128, score_dim=100).query.in_features == 100


@pytest.mark.plain
def test_refuses_keys_without_width():
    with pytest.raises(ValueError, match="AttentionFusion got score_dim=0. Expected a number above 0"):
        AttentionFusion(DIMS, 8, score_dim=0)
