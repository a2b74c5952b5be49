"""MFB: its promises, its equation and its oddities."""

import pytest
import torch
from fusion_equations import linear

from mmfuse.contracts import Features
from mmfuse.fusion.mfb import MFB
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
@pytest.mark.parametrize("dims", [DIMS, {"text": 6, "audio": 4}], ids=["three", "two"])
def test_keeps_the_promises_of_a_fusion(dims):
    check_fusion(lambda dims: MFB(dims, 8), dims=dims)


def test_equals_its_equation():
    torch.manual_seed(0)
    fusion = MFB(DIMS, 8, rank=3).double().eval()
    features = random_features()

    fused = fusion(features)

    for i in range(6):
        product = torch.ones(24, dtype=torch.float64)
        for name, x in features.items():
            if x.mask[i].any():
                product = product * linear(fusion.project[name], x.pooled[i])
        z = torch.stack([product[3 * o] + product[3 * o + 1] + product[3 * o + 2] for o in range(8)])
        root = z / torch.sqrt(z.abs() + 1e-6)
        expected = root / torch.sqrt((root**2).sum() + 1e-6)
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)


def test_is_nearly_the_signed_square_root_with_length_1():
    torch.manual_seed(0)
    fusion = MFB({"text": 6}, 8, rank=1).double().eval()
    x = random_features()["text"]

    fused = fusion({"text": x}).features.pooled[0]

    z = fusion.project["text"](x.pooled[0])
    root = z.sign() * z.abs().sqrt()
    torch.testing.assert_close(fused, root / root.norm(), rtol=0, atol=1e-4)
    assert fused.norm().item() == pytest.approx(1, abs=1e-6)


def test_a_product_of_exactly_zero_has_a_finite_gradient():
    fusion = MFB({"text": 6}, 8).double().eval()
    torch.nn.init.zeros_(fusion.project["text"].bias)
    pooled = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)

    fused = fusion({"text": Features.from_pooled(pooled, torch.tensor([True, True]))})
    fused.features.pooled.sum().backward()

    torch.testing.assert_close(fused.features.pooled, torch.zeros(2, 8, dtype=torch.float64))
    assert pooled.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in fusion.parameters())


def test_dropout_comes_before_the_sum_and_acts_in_training_only():
    torch.manual_seed(0)
    fusion = MFB(DIMS, 8, rank=40, dropout=0.5).double()
    features = random_features()

    training = [fusion(features).features.pooled for _ in range(2)]
    fusion.eval()
    evaluation = [fusion(features).features.pooled for _ in range(2)]

    assert not torch.equal(*training)
    assert training[0].ne(0).all()  # of 40 products some are left in every sum
    torch.testing.assert_close(*evaluation, rtol=0, atol=0)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MFB({}, 8), "MFB got no modalities"),
        (lambda: MFB(DIMS, 8, rank=0), "MFB got rank=0. Expected a number above 0"),
        (lambda: MFB(DIMS, 8, dropout=1.0), "MFB got dropout=1.0. Expected a share"),
    ],
)
def test_refuses_what_cannot_work(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_product_that_float16_cannot_hold_has_a_direction():
    torch.manual_seed(0)
    dims, present = {"text": 6, "audio": 4}, torch.tensor([True])
    fusion = MFB(dims, 8).eval()
    features = {name: Features.from_pooled(torch.full((1, dim), 1e3), present) for name, dim in dims.items()}

    expected = fusion(features).features.pooled
    with torch.autocast("cpu", torch.float16):
        pooled = fusion(features).features.pooled

    torch.testing.assert_close(pooled.float(), expected, rtol=0, atol=5e-3)
