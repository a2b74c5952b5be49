"""MUTAN: its promises, its equation and its oddities."""

import pytest
import torch
from fusion_equations import linear

from mmfuse.contracts import Features
from mmfuse.fusion.mutan import MUTAN
from mmfuse.testing import DIMS, check_fusion, random_features

TWO = {"text": 6, "audio": 4}


@pytest.mark.plain
@pytest.mark.parametrize("keywords", [{}, {"width": 5, "rank": 3}], ids=["default", "narrow"])
def test_keeps_the_promises_of_a_fusion(keywords):
    check_fusion(lambda dims: MUTAN(dims, 8, **keywords), dims=TWO)


def test_equals_its_equation():
    torch.manual_seed(0)
    fusion = MUTAN(TWO, 8, width=5, rank=3).double()
    features = random_features(TWO)

    fused = fusion(features)

    for i in range(6):
        z = torch.zeros(5, dtype=torch.float64)
        for r in range(3):
            product = torch.ones(5, dtype=torch.float64)
            for name, x in features.items():
                if x.mask[i].any():
                    narrow = linear(fusion.project[name], x.pooled[i])
                    product = product * linear(fusion.factor[name], narrow)[5 * r : 5 * r + 5]
            z = z + product
        torch.testing.assert_close(fused.features.pooled[i], linear(fusion.out, z), rtol=0, atol=1e-12)


def test_each_slice_of_its_core_has_the_given_rank():
    torch.manual_seed(0)
    fusion = MUTAN(TWO, 8, width=6, rank=2).double()

    left, right = (fusion.factor[name].weight.unflatten(0, (2, 6)) for name in TWO)  # (rank, result, width)
    core = torch.einsum("rki,rkj->kij", left, right)

    assert torch.linalg.matrix_rank(core).tolist() == [2] * 6


def test_the_result_starts_with_the_variance_of_the_inputs():
    torch.manual_seed(0)
    fusion = MUTAN({"text": 300, "audio": 200}, 256)
    x, y = torch.randn(64, 300), torch.randn(64, 200)

    fused = fusion({n: pooled(v) for n, v in {"text": x, "audio": y}.items()})

    assert fused.features.pooled.var().item() == pytest.approx(1, abs=0.2)


def pooled(vectors):
    return Features.from_pooled(vectors, torch.ones(len(vectors), dtype=torch.bool))


def test_dropout_acts_in_training_only():
    fusion = MUTAN(TWO, 8, dropout=0.5).double()
    features = random_features(TWO)

    training = [fusion(features).features.pooled for _ in range(2)]
    fusion.eval()
    evaluation = [fusion(features).features.pooled for _ in range(2)]

    assert not torch.equal(*training)
    torch.testing.assert_close(*evaluation, rtol=0, atol=0)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MUTAN(DIMS, 8), "MUTAN got 3 modalities.*Expected exactly two.*Use MFB"),
        (lambda: MUTAN(TWO, 8, width=0), "MUTAN got width=0. Expected a number above 0"),
        (lambda: MUTAN(TWO, 8, rank=0), "MUTAN got rank=0. Expected a number above 0"),
        (lambda: MUTAN(TWO, 8, dropout=1.0), "MUTAN got dropout=1.0. Expected a share"),
    ],
)
def test_refuses_what_cannot_work(build, message):
    with pytest.raises(ValueError, match=message):
        build()
