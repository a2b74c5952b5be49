"""FiLM: its promises, its equation and its oddities."""

import pytest
import torch
from fusion_equations import linear

from mmfuse.fusion.film import FiLM
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion():
    check_fusion(lambda dims: FiLM(dims, 8))


@pytest.mark.plain
def test_two_modalities_keep_the_promises_too_whichever_is_the_main_one():
    check_fusion(lambda dims: FiLM(dims, 8, main=list(dims)[1]), dims={"text": 6, "audio": 4})


def with_conditions(**options):
    """Conditions start at zero, which would hide them."""
    torch.manual_seed(0)
    fusion = FiLM(DIMS, 8, **options).double()
    with torch.no_grad():
        for parameter in fusion.condition.parameters():
            parameter.normal_()
    return fusion


@pytest.mark.parametrize("main", ["text", "image"])
def test_equals_its_equation(main):
    fusion, features = with_conditions(main=main), random_features()

    pooled = fusion(features).features.pooled

    for i in range(6):
        x = linear(fusion.project, features[main].pooled[i]) if features[main].mask[i].any() else fusion.absent
        gamma, beta = torch.ones(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
        for name, condition in features.items():
            if name != main and condition.mask[i].any():
                change = linear(fusion.condition[name], condition.pooled[i])
                gamma, beta = gamma + change[:8], beta + change[8:]
        torch.testing.assert_close(pooled[i], gamma * x + beta, rtol=0, atol=1e-12)


def test_starts_as_the_projected_main_modality():
    torch.manual_seed(0)
    fusion, features = FiLM(DIMS, 8, main="audio").double(), random_features()

    pooled = fusion(features).features.pooled

    there = features["audio"].present
    torch.testing.assert_close(pooled[there], fusion.project(features["audio"].pooled)[there], rtol=0, atol=0)
    torch.testing.assert_close(pooled[~there], fusion.absent.expand(3, 8), rtol=0, atol=0)


def test_conditions_learn_from_the_start():
    torch.manual_seed(0)
    fusion = FiLM(DIMS, 8).double()

    fusion(random_features()).features.pooled.sum().backward()

    assert all(parameter.grad.any() for parameter in fusion.condition.parameters())


def test_without_any_condition_the_main_modality_stays_as_it_is():
    fusion, features = with_conditions(), random_features()

    pooled = fusion(features).features.pooled

    alone = linear(fusion.project, features["text"].pooled[4])
    torch.testing.assert_close(pooled[4], alone, rtol=0, atol=1e-12)


@pytest.mark.plain
def test_refuses_an_unknown_main_modality():
    with pytest.raises(ValueError, match="FiLM got main='txt'. Expected one of .* Did you mean 'text'"):
        FiLM(DIMS, 8, main="txt")
