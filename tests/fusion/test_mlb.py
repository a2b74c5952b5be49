"""MLB: its promises, its equation and its oddities."""

import pytest
import torch
from fusion_equations import linear

from mmfuse.contracts import Features
from mmfuse.fusion.mlb import MLB
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
@pytest.mark.parametrize("dims", [DIMS, {"text": 6, "audio": 4}], ids=["three", "two"])
def test_keeps_the_promises_of_a_fusion(dims):
    check_fusion(lambda dims: MLB(dims, 8, rank=5), dims=dims)


def test_equals_its_equation():
    torch.manual_seed(0)
    fusion = MLB(DIMS, 8).double()
    features = random_features()

    fused = fusion(features)

    for i in range(6):
        product = torch.ones(8, dtype=torch.float64)
        for name, x in features.items():
            if x.mask[i].any():
                product = product * torch.tanh(linear(fusion.project[name], x.pooled[i]))
        torch.testing.assert_close(fused.features.pooled[i], linear(fusion.out, product), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_factor_of_an_absent_modality_is_exactly_1_in_every_type(dtype):
    fusion = MLB(DIMS, 8).to(dtype)
    torch.nn.init.eye_(fusion.out.weight)
    with torch.no_grad():
        for layer in fusion.project.values():
            layer.bias.fill_(-100.0)

    nothing = fusion({n: Features(x.tokens.to(dtype), x.mask, x.pooled.to(dtype)) for n, x in sample(5).items()})

    torch.testing.assert_close(nothing.features.pooled, torch.ones(1, 8, dtype=dtype), rtol=0, atol=0)


def sample(row):
    return {name: Features(x.tokens[[row]], x.mask[[row]], x.pooled[[row]]) for name, x in random_features().items()}


def test_a_single_modality_is_one_layer_with_tanh_and_the_output():
    torch.manual_seed(0)
    fusion = MLB({"text": 6}, 8).double()
    x = random_features()["text"]

    fused = fusion({"text": x})

    expected = fusion.out(fusion.project["text"](x.pooled[0]).tanh())
    torch.testing.assert_close(fused.features.pooled[0], expected, rtol=0, atol=1e-12)


def test_dropout_acts_in_training_only():
    fusion = MLB(DIMS, 8, dropout=0.5).double()
    features = random_features()

    training = [fusion(features).features.pooled for _ in range(2)]
    fusion.eval()
    evaluation = [fusion(features).features.pooled for _ in range(2)]

    assert not torch.equal(*training)
    torch.testing.assert_close(*evaluation, rtol=0, atol=0)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLB({}, 8), "MLB got no modalities"),
        (lambda: MLB(DIMS, 8, rank=0), "MLB got rank=0. Expected a number above 0"),
        (lambda: MLB(DIMS, 8, dropout=1.0), "MLB got dropout=1.0. Expected a share"),
    ],
)
def test_refuses_what_cannot_work(build, message):
    with pytest.raises(ValueError, match=message):
        build()
