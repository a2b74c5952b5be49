"""TensorFusion: its promises, its equation, and the terms of lower order that it holds."""

import itertools

import pytest
import torch
from fusion_equations import gelu, linear

from mmfuse.contracts import Features
from mmfuse.fusion.tensor_fusion import TensorFusion
from mmfuse.testing import DIMS, check_fusion, random_features

NARROW = {"text": 3, "audio": 4, "image": 2}


@pytest.mark.plain
@pytest.mark.parametrize("dims", [DIMS, {"text": 6, "audio": 4}], ids=["three", "two"])
def test_keeps_the_promises_of_a_fusion(dims):
    check_fusion(lambda dims: TensorFusion(dims, 8), dims=dims)


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion_with_small_networks_in_front():
    check_fusion(lambda dims: TensorFusion(dims, 8, widths=dict.fromkeys(dims, 3)))


@pytest.mark.parametrize("widths", [DIMS, NARROW], ids=["as they are", "narrow"])
def test_equals_its_equation(widths):
    torch.manual_seed(0)
    fusion = TensorFusion(DIMS, 8, widths=widths).double().eval()
    features = random_features()

    fused = fusion(features)

    for i in range(6):
        vectors = []
        for name, x in features.items():
            z = torch.zeros(widths[name], dtype=torch.float64)
            if x.mask[i].any():
                z = x.pooled[i]
                z = z if widths[name] == DIMS[name] else gelu(linear(fusion.project[name][0], z))
            vectors.append([*z.tolist(), 1.0])
        expected = torch.zeros(8, dtype=torch.float64)
        for place in itertools.product(*(range(len(vector)) for vector in vectors)):
            text, audio, image = (vector[index] for vector, index in zip(vectors, place, strict=True))
            expected = expected + fusion.core[place] * text * audio * image
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)


def test_its_slices_hold_every_term_of_lower_order():
    torch.manual_seed(0)
    fusion = TensorFusion(DIMS, 8, widths=DIMS).double().eval()
    features = random_features()
    t, a, v = (x.pooled[0] for x in features.values())
    core = fusion.core

    fused = fusion(features).features.pooled

    bias = core[-1, -1, -1]
    one = t @ core[:-1, -1, -1] + a @ core[-1, :-1, -1] + v @ core[-1, -1, :-1]
    two = (
        torch.einsum("i,j,ijo->o", t, a, core[:-1, :-1, -1])
        + torch.einsum("i,k,iko->o", t, v, core[:-1, -1, :-1])
        + torch.einsum("j,k,jko->o", a, v, core[-1, :-1, :-1])
    )
    three = torch.einsum("i,j,k,ijko->o", t, a, v, core[:-1, :-1, :-1])
    torch.testing.assert_close(fused[0], bias + one + two + three, rtol=0, atol=1e-12)
    # Sample 4 has only the text, sample 5 nothing.
    text = features["text"].pooled[4]
    torch.testing.assert_close(fused[4], bias + text @ core[:-1, -1, -1], rtol=0, atol=1e-12)
    torch.testing.assert_close(fused[5], bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_the_default_widths_keep_the_product_small(number):
    fusion = TensorFusion({f"m{i}": 768 for i in range(number)}, 2)

    assert fusion.core.numel() <= 2 * 5000


def test_a_modality_does_not_become_wider_than_it_is():
    fusion = TensorFusion({"text": 768, "table": 5}, 2)

    assert tuple(fusion.core.shape) == (70, 6, 2)
    assert isinstance(fusion.project["table"], torch.nn.Identity)


def test_nothing_of_a_sample_leaks_into_another():
    torch.manual_seed(0)
    fusion = TensorFusion(DIMS, 8).double().eval()
    pooled = {name: torch.randn(4, width, dtype=torch.float64) for name, width in DIMS.items()}
    there = torch.ones(4, dtype=torch.bool)

    before = fusion({name: Features.from_pooled(x, there) for name, x in pooled.items()}).features.pooled[0]
    for x in pooled.values():
        x[1:] = 1e6
    after = fusion({name: Features.from_pooled(x, there) for name, x in pooled.items()}).features.pooled[0]

    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_dropout_acts_in_training_only():
    fusion = TensorFusion(DIMS, 8, dropout=0.5).double()
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
        (lambda: TensorFusion({}, 8), "TensorFusion got no modalities"),
        (lambda: TensorFusion(DIMS, 8, widths={"text": 3}), r"got no \['audio', 'image'\], only \['text'\]"),
        (lambda: TensorFusion(DIMS, 8, widths={**NARROW, "vidoe": 3}), "unknown modality 'vidoe'"),
        (lambda: TensorFusion(DIMS, 8, widths={**NARROW, "text": 0}), "got text=0. Expected a number above 0"),
        (lambda: TensorFusion(DIMS, 8, dropout=1.0), "TensorFusion got dropout=1.0. Expected a share"),
    ],
)
def test_refuses_what_cannot_work(build, message):
    with pytest.raises(ValueError, match=message):
        build()
