"""Concat: its promises, its equation and its oddities."""

import pytest
import torch
from fusion_equations import gelu, linear

from mmfuse.fusion.concat import Concat
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
@pytest.mark.parametrize("dims", [DIMS, {"text": 6, "audio": 4}], ids=["three", "two"])
def test_keeps_the_promises_of_a_fusion(dims):
    check_fusion(lambda dims: Concat(dims, 8), dims=dims)


def test_equals_its_equation():
    torch.manual_seed(0)
    fusion = Concat(DIMS, 8).double()
    features = random_features()

    fused = fusion(features)

    for i in range(6):
        slots = []
        for name, x in features.items():
            slots.append(linear(fusion.project[name], x.pooled[i]) if x.mask[i].any() else fusion.absent[name])
        expected = linear(fusion.mix[3], gelu(linear(fusion.mix[0], torch.cat(slots))))
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    fusion = Concat(DIMS, 8, dropout=0.5).double()
    features = random_features()

    training = [fusion(features).features.pooled for _ in range(2)]
    fusion.eval()
    evaluation = [fusion(features).features.pooled for _ in range(2)]

    assert not torch.equal(*training)
    torch.testing.assert_close(*evaluation, rtol=0, atol=0)


@pytest.mark.plain
def test_refuses_a_dropout_that_is_no_share():
    with pytest.raises(ValueError, match="Concat got dropout=1.0. Expected a share from 0 to below 1"):
        Concat(DIMS, 8, dropout=1.0)
