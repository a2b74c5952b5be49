"""Late fusion: each modality decides alone."""

import pytest
import torch
from fusion_equations import gelu, linear
from torch import nn

from mmfuse.fusion.late import LateFusion
from mmfuse.tasks import Classification
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
@pytest.mark.parametrize("combine", ["mean", "weighted", "product"])
def test_keeps_the_promises_of_a_fusion(combine):
    check_fusion(lambda dims: LateFusion(dims, 8, combine=combine))


@pytest.mark.plain
def test_two_modalities_keep_the_promises_too():
    check_fusion(lambda dims: LateFusion(dims, 8), dims={"text": 6, "audio": 4})


def moved(fusion):
    """The fusion in float64, with every parameter off its initial value."""
    torch.manual_seed(1)
    fusion = fusion.double().eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return fusion


@pytest.mark.parametrize("combine", ["mean", "weighted", "product"])
def test_equals_its_equation(combine):
    fusion, features = moved(LateFusion(DIMS, 8, combine=combine)), random_features()

    fused = fusion(features)

    for i in range(6):
        names = [name for name, x in features.items() if x.mask[i].any()]
        size = {name: torch.exp(fusion.score[name]) if combine == "weighted" else 1.0 for name in names}
        expected = torch.zeros(8, dtype=torch.float64)
        for name in names:
            hidden = gelu(linear(fusion.decide[name][0], features[name].pooled[i]))
            share = torch.as_tensor(size[name] / sum(size.values()), dtype=torch.float64)
            alone = linear(fusion.decide[name][3], hidden)
            expected = expected + (alone if combine == "product" else share * alone)
            place = sorted(DIMS).index(name)
            torch.testing.assert_close(fused.features.tokens[i, place], alone, rtol=0, atol=1e-12)
            torch.testing.assert_close(fused.weights[name][i], share, rtol=0, atol=1e-12)
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)


def test_tokens_stand_in_the_order_of_sorted_names_and_are_real_where_present():
    features = random_features()

    fused = LateFusion(DIMS, 8).double()(features)

    expected = torch.stack([features[name].present for name in sorted(DIMS)], dim=1)
    assert torch.equal(fused.features.mask, expected)
    assert torch.equal(fused.features.pooled[5], torch.zeros(8, dtype=torch.float64))
    assert not fused.features.present[5]


def test_the_mean_is_that_of_logits_and_the_product_that_of_probabilities_over_one_prior():
    features = random_features()
    task = Classification(8, 3).double()
    mean, product = moved(LateFusion(DIMS, 8)), moved(LateFusion(DIMS, 8, combine="product"))
    product.load_state_dict(mean.state_dict())

    alone = task.classify(mean(features).features.tokens[0])  # (modality, class)
    both = [task.decode(task(fusion(features).features))[0] for fusion in (mean, product)]

    geometric = alone.softmax(dim=-1).log().mean(dim=0).exp()
    torch.testing.assert_close(both[0], geometric / geometric.sum(), rtol=0, atol=1e-12)
    prior = task.classify.bias.softmax(dim=-1)
    chained = prior * (alone.softmax(dim=-1) / prior).prod(dim=0)  # Bayes, for modalities independent given the class
    torch.testing.assert_close(both[1], chained / chained.sum(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("combine", ["mean", "weighted", "product"])
def test_a_single_modality_gives_its_own_vector(combine):
    fusion = LateFusion({"text": 6}, 8, combine=combine).double()
    features = {"text": random_features()["text"]}

    fused = fusion(features)
    fused.features.pooled.sum().backward()

    there = features["text"].present
    torch.testing.assert_close(fused.features.pooled[there], fused.features.tokens[there, 0])
    torch.testing.assert_close(fused.weights["text"], there.double())
    assert all(parameter.grad is not None for parameter in fusion.parameters())


def test_drops_out_in_training_only():
    fusion, features = LateFusion(DIMS, 8, dropout=0.5).double(), random_features()
    assert isinstance(fusion.decide["text"][2], nn.Dropout)

    assert not torch.equal(fusion(features).features.pooled, fusion(features).features.pooled)
    fusion.eval()
    assert torch.equal(fusion(features).features.pooled, fusion(features).features.pooled)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LateFusion({}, 8), "LateFusion got no modalities"),
        (lambda: LateFusion(DIMS, 0), "LateFusion got dim=0. Expected a number above 0"),
        (
            lambda: LateFusion(DIMS, 8, combine="weights"),
            r"LateFusion got combine='weights'. Expected one of \['mean', 'weighted', 'product'\].*'weighted'",
        ),
        (lambda: LateFusion(DIMS, 8, dropout=1.0), "LateFusion got dropout=1.0. Expected a share from 0 to below 1"),
    ],
)
def test_what_cannot_work_is_not_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
