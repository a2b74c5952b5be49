"""DeepSets: its promises, its equation and its oddities."""

import pytest
import torch
from fusion_equations import gelu, linear

from mmfuse.fusion.deep_sets import DeepSets
from mmfuse.testing import DIMS, check_fusion, random_features

POOL = {
    "mean": lambda elements: sum(elements) / len(elements),
    "sum": sum,
    "max": lambda elements: torch.tensor([max(e[c].item() for e in elements) for c in range(8)], dtype=torch.float64),
}


@pytest.mark.plain
@pytest.mark.parametrize("pool", POOL)
def test_keeps_the_promises_of_a_fusion(pool):
    # 32 wide: with the maximum, a modality matters only where it is the largest, and is that nowhere in few coordinates
    check_fusion(lambda dims: DeepSets(dims, 32, pool=pool))


@pytest.mark.plain
def test_two_modalities_keep_the_promises_too():
    check_fusion(lambda dims: DeepSets(dims, 8), dims={"text": 6, "audio": 4})


def two_layers(layers, x):
    return linear(layers[-1], gelu(linear(layers[0], x)))


@pytest.mark.parametrize("pool", POOL)
def test_equals_its_equation(pool):
    torch.manual_seed(0)
    fusion, features = DeepSets(DIMS, 8, pool=pool).double(), random_features()

    pooled = fusion(features).features.pooled

    for i in range(6):
        elements = [two_layers(fusion.phi[name], x.pooled[i]) for name, x in features.items() if x.mask[i].any()]
        expected = POOL[pool](elements) if elements else torch.zeros(8, dtype=torch.float64)
        torch.testing.assert_close(pooled[i], two_layers(fusion.rho, expected), rtol=0, atol=1e-12)


def test_all_poolings_agree_on_a_set_of_one():
    torch.manual_seed(0)
    first = DeepSets(DIMS, 8).double()
    features = random_features()

    for pool in ("sum", "max"):
        other = DeepSets(DIMS, 8, pool=pool).double()
        other.load_state_dict(first.state_dict())

        torch.testing.assert_close(
            other(features).features.pooled[4], first(features).features.pooled[4], rtol=0, atol=1e-12
        )


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    fusion, features = DeepSets(DIMS, 8, dropout=0.5).double(), random_features()

    training = [fusion(features).features.pooled for _ in range(2)]
    fusion.eval()
    evaluation = [fusion(features).features.pooled for _ in range(2)]

    assert not torch.equal(*training)
    torch.testing.assert_close(*evaluation, rtol=0, atol=0)


@pytest.mark.plain
def test_refuses_what_it_cannot_pool_with():
    with pytest.raises(ValueError, match="DeepSets got pool='median'. Expected one of"):
        DeepSets(DIMS, 8, pool="median")
    with pytest.raises(ValueError, match="DeepSets got dropout=-0.1. Expected a share from 0 to below 1"):
        DeepSets(DIMS, 8, dropout=-0.1)
