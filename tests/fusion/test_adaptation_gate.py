"""AdaptationGate: its promises, its equation and its oddities."""

import pytest
import torch
from fusion_equations import linear

from mmfuse.contracts import Features
from mmfuse.fusion.adaptation_gate import AdaptationGate
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion():
    check_fusion(lambda dims: AdaptationGate(dims, 8))


@pytest.mark.plain
def test_two_modalities_keep_the_promises_too_whichever_is_the_main_one():
    check_fusion(lambda dims: AdaptationGate(dims, 8, main=list(dims)[1], beta=0.3), dims={"text": 6, "audio": 4})


def build(**options):
    torch.manual_seed(0)
    fusion = AdaptationGate(DIMS, 8, **options).double().eval()
    with torch.no_grad():
        fusion.bias.normal_()
        fusion.norm.weight.normal_()
        fusion.norm.bias.normal_()
    return fusion


def layer_norm(layer, x):
    mean = x.sum() / 8
    return (x - mean) / torch.sqrt(((x - mean) ** 2).sum() / 8 + layer.eps) * layer.weight + layer.bias


def shifted_token(fusion, z, others):
    """One token, and the pooled vectors of the modalities beside it, by name."""
    if not others:
        return layer_norm(fusion.norm, z)
    shift = fusion.bias
    for name, x in others.items():
        gate = (fusion.look[name].weight @ z + linear(fusion.gate[name], x)).clamp_min(0)
        shift = shift + gate * (fusion.value[name].weight @ x)
    alpha = min(fusion.beta * z.square().sum().sqrt() / shift.square().sum().sqrt(), 1.0)
    return layer_norm(fusion.norm, z + alpha * shift)


@pytest.mark.parametrize("main", ["text", "image"])
@pytest.mark.parametrize("beta", [0.2, 50.0])  # every shift is cut; none is
def test_equals_its_equation(main, beta):
    fusion, features = build(main=main, beta=beta), random_features()

    result = fusion(features).features

    for i in range(5):
        others = {name: x.pooled[i] for name, x in features.items() if name != main and x.mask[i].any()}
        real = [linear(fusion.project, x) for x in features[main].tokens[i, features[main].mask[i]]]
        expected = [shifted_token(fusion, z, others) for z in real or [fusion.absent]]
        torch.testing.assert_close(result.tokens[i, result.mask[i]], torch.stack(expected), rtol=0, atol=1e-12)
        torch.testing.assert_close(result.pooled[i], sum(expected) / len(expected), rtol=0, atol=1e-12)
    assert not result.mask[5].any()
    assert result.pooled[5].eq(0).all()


def test_a_main_modality_that_is_alone_is_not_shifted():
    fusion, features = build(), random_features()

    result = fusion(features).features

    expected = fusion.norm(linear(fusion.project, features["text"].tokens[4, 0]))
    torch.testing.assert_close(result.tokens[4, 0], expected, rtol=0, atol=1e-12)


def test_a_shift_of_zero_is_no_division_by_zero():
    fusion = build()
    features = {name: Features(x.tokens, x.mask, torch.zeros_like(x.pooled)) for name, x in random_features().items()}
    with torch.no_grad():
        fusion.bias.zero_()

    result = fusion(features).features
    result.pooled.square().sum().backward()

    expected = fusion.norm(linear(fusion.project, features["text"].tokens[0, 0]))
    torch.testing.assert_close(result.tokens[0, 0], expected, rtol=0, atol=1e-12)
    assert all(parameter.grad.isfinite().all() for parameter in fusion.parameters())


def test_a_shift_is_never_longer_than_beta_times_its_token():
    fusion, features = build(beta=0.25), random_features()
    before = fusion.project(features["text"].tokens)
    fusion.norm = torch.nn.Identity()

    after = fusion(features).features

    ratio = (after.tokens - before).norm(dim=2) / before.norm(dim=2)
    assert ratio[features["text"].mask].max() <= 0.25 + 1e-12
    assert ratio[0].min() > 0.2


def test_the_input_keeps_its_mask():
    features = random_features()
    before = features["text"].mask.clone()

    result = build()(features).features

    assert torch.equal(features["text"].mask, before)
    assert result.mask[1].tolist() == [True, False, False, False, False]  # text is absent, the others are not


def test_dropout_acts_in_training_only():
    fusion, features = build(dropout=0.5), random_features()

    evaluation = [fusion(features).features.pooled for _ in range(2)]
    fusion.train()
    training = [fusion(features).features.pooled for _ in range(2)]

    assert not torch.equal(*training)
    torch.testing.assert_close(*evaluation, rtol=0, atol=0)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "AdaptationGate got beta=0.0. Expected a number above 0"),
        ({"dropout": 1.0}, "AdaptationGate got dropout=1.0. Expected a share from 0 to below 1"),
        ({"main": "speech"}, "AdaptationGate got main='speech'. Expected one of"),
    ],
)
def test_refuses_what_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        AdaptationGate(DIMS, 8, **options)
