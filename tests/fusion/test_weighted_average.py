"""WeightedAverage: its promises, its equation and its oddities."""

import pytest
import torch
from fusion_equations import linear

from mmfuse.fusion.weighted_average import WeightedAverage
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
@pytest.mark.parametrize("given", [False, True], ids=["learned", "given"])
def test_keeps_the_promises_of_a_fusion(given):
    check_fusion(
        lambda dims: WeightedAverage(dims, 8, weights={n: i + 1 for i, n in enumerate(dims)} if given else None)
    )


@pytest.mark.plain
def test_two_modalities_keep_the_promises_too():
    check_fusion(lambda dims: WeightedAverage(dims, 8), dims={"text": 6, "audio": 4})


@pytest.mark.parametrize("given", [None, {"text": 1.0, "audio": 2.0, "image": 5.0}])
def test_equals_its_equation(given):
    torch.manual_seed(0)
    fusion = WeightedAverage(DIMS, 8, weights=given).double()
    if given is None:
        with torch.no_grad():
            for name in DIMS:
                fusion.score[name].normal_()
    features = random_features()

    fused = fusion(features)

    for i in range(6):
        names = [name for name, x in features.items() if x.mask[i].any()]
        size = {name: given[name] if given else torch.exp(fusion.score[name]).item() for name in names}
        expected = torch.zeros(8, dtype=torch.float64)
        for name in names:
            share = size[name] / sum(size.values())
            expected = expected + share * linear(fusion.project[name], features[name].pooled[i])
            # Given weights are kept as logarithms in float32.
            assert fused.weights[name][i].item() == pytest.approx(share, abs=1e-7 if given else 1e-12)
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-7 if given else 1e-12)


def test_the_learned_weights_start_equal():
    features = random_features()

    weights = WeightedAverage(DIMS, 8).double()(features).weights

    assert [weights[name][0].item() for name in DIMS] == pytest.approx([1 / 3] * 3)
