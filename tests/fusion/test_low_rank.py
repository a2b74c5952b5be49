"""LowRankFusion: its promises, its equation, and the tensor fusion that it is."""

import pytest
import torch
from fusion_equations import linear

from mmfuse.contracts import Features
from mmfuse.fusion.low_rank import LowRankFusion
from mmfuse.fusion.tensor_fusion import TensorFusion
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
@pytest.mark.parametrize("dims", [DIMS, {"text": 6, "audio": 4}], ids=["three", "two"])
def test_keeps_the_promises_of_a_fusion(dims):
    check_fusion(lambda dims: LowRankFusion(dims, 8), dims=dims)


def test_equals_its_equation():
    torch.manual_seed(0)
    fusion = LowRankFusion(DIMS, 8, rank=3).double()
    with torch.no_grad():
        fusion.weights.normal_()
        fusion.bias.normal_()
    features = random_features()

    fused = fusion(features)

    for i in range(6):
        expected = fusion.bias
        for r in range(3):
            product = torch.ones(8, dtype=torch.float64)
            for name, x in features.items():
                vector = x.pooled[i] if x.mask[i].any() else torch.zeros(DIMS[name], dtype=torch.float64)
                product = product * linear(fusion.factor[name], vector)[8 * r : 8 * r + 8]
            expected = expected + fusion.weights[r] * product
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)


def test_is_tensor_fusion_with_a_core_that_is_a_sum_of_products():
    torch.manual_seed(0)
    low = LowRankFusion(DIMS, 8, rank=3).double()
    full = TensorFusion(DIMS, 8, widths=DIMS).double().eval()
    features = random_features()
    factors = []
    for name in DIMS:
        layer = low.factor[name]
        factors.append(torch.cat([layer.weight, layer.bias[:, None]], dim=1).unflatten(0, (3, 8)))  # (rank, dim, d + 1)

    with torch.no_grad():
        full.core.copy_(torch.einsum("r,roi,roj,rok->ijko", low.weights, *factors))

    expected = full(features).features.pooled
    torch.testing.assert_close(low(features).features.pooled, expected, rtol=0, atol=1e-12)


def test_an_absent_modality_does_not_take_the_others_with_it():
    torch.manual_seed(0)
    fusion = LowRankFusion(DIMS, 8)
    generator = torch.Generator().manual_seed(0)
    features = {
        name: Features.from_pooled(torch.randn(50, width, generator=generator), torch.full((50,), name == "text"))
        for name, width in DIMS.items()
    }

    fused = fusion(features).features

    assert fused.present.all()
    assert fused.pooled.std(dim=0).gt(0.01).all()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_result_starts_with_variance_1_for_any_number_of_modalities(number):
    torch.manual_seed(0)
    fusion = LowRankFusion({f"m{i}": 100 for i in range(number)}, 512, rank=8)
    there = torch.ones(64, dtype=torch.bool)

    fused = fusion({name: Features.from_pooled(torch.randn(64, 100), there) for name in fusion.factor})

    assert fused.features.pooled.var().item() == pytest.approx(1, abs=0.2)


def test_every_factor_is_a_parameter_named_by_its_modality():
    names = {name for name, _ in LowRankFusion(DIMS, 8).named_parameters()}

    expected = {f"factor.{name}.{part}" for name in DIMS for part in ("weight", "bias")}
    assert names == {"weights", "bias"} | expected


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LowRankFusion({}, 8), "LowRankFusion got no modalities"),
        (lambda: LowRankFusion(DIMS, 8, rank=0), "LowRankFusion got rank=0. Expected a number above 0"),
    ],
)
def test_refuses_what_cannot_work(build, message):
    with pytest.raises(ValueError, match=message):
        build()
