"""Absent modalities predicted from the present ones."""

import pytest
import torch
from torch import nn

from mmfuse import Features, Fused
from mmfuse.fusion import Concat, CrossAttention, WeightedAverage
from mmfuse.missing import Imputation
from mmfuse.testing import DIMS, check_fusion, random_features
from mmfuse.testing.samples import Case, real, rows, watched

# Its targets are stopped gradients, see the docstring; the test of gradients below leaves its penalties out.
SKIP = {"gradients are right"}


@pytest.mark.plain
@pytest.mark.parametrize("make", [Concat, WeightedAverage, CrossAttention])
def test_keeps_the_promises_of_a_fusion(make):
    check_fusion(lambda dims: Imputation(dims, make(dims, 8)), skip=SKIP)


@pytest.mark.plain
def test_two_modalities_keep_the_promises_too():
    check_fusion(
        lambda dims: Imputation(dims, WeightedAverage(dims, 8), hidden=3, weight=0.3),
        dims={"text": 6, "audio": 4},
        skip=SKIP,
    )


def test_gradients_agree_with_finite_differences_but_for_the_stopped_ones():
    fusion = Case(lambda dims: Imputation(dims, WeightedAverage(dims, 8)), DIMS).fusion()
    features = random_features()

    def result(*pooled):
        given = {n: Features(x.tokens, x.mask, p) for (n, x), p in zip(features.items(), pooled, strict=True)}
        parts = real(fusion(given))
        return tuple(part for name, part in parts.items() if "imputation" not in name and part.requires_grad)

    inputs = [x.pooled.requires_grad_() for x in features.values()]
    torch.autograd.gradcheck(result, inputs, fast_mode=True)


def linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return layer.weight @ x + layer.bias


def predicted(fusion: Imputation, name: str, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """The equation, for one sample that has the given vectors."""
    others = [other for other in DIMS if other != name]
    zeros = {other: torch.zeros(DIMS[other], dtype=torch.float64) for other in others}
    there = torch.tensor([float(other in given) for other in others], dtype=torch.float64)
    hidden = linear(fusion.predict[name][0], torch.cat([*(given.get(o, zeros[o]) for o in others), there]))
    return linear(fusion.predict[name][2], 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5)))


def test_equals_its_equation():
    torch.manual_seed(0)
    fusion = Imputation(DIMS, WeightedAverage(DIMS, 8), weight=0.7).double()
    features = random_features()

    fused = fusion(features)

    errors = {name: [] for name in DIMS}
    for i in range(6):
        given = {name: x.pooled[i] for name, x in features.items() if x.mask[i].any()}
        expected = torch.zeros(8, dtype=torch.float64)
        for name in DIMS if given else ():
            vector = given[name] if name in given else predicted(fusion, name, given)
            expected = expected + linear(fusion.fusion.project[name], vector) / 3
            if name in given and len(given) > 1:
                errors[name].append((predicted(fusion, name, given) - given[name]).square().mean())
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)
    for name, values in errors.items():
        mean = 0.7 * sum(values) / len(values)
        torch.testing.assert_close(fused.penalties[f"imputation/{name}"], mean, rtol=0, atol=1e-12)


class Spy(nn.Module):
    """A fusion that hands out what it was given, and gives all its weight to one modality."""

    def __init__(self, name=None):
        super().__init__()
        self.name = name

    def forward(self, features):
        self.seen = features
        weights = {n: (x.present & (n == self.name)).double() for n, x in features.items()} if self.name else {}
        return Fused(features["text"], weights, {"spy": torch.ones(())})


def test_a_prediction_is_the_pooled_vector_and_the_only_token():
    spy = Spy()
    fusion = Imputation(DIMS, spy).double()
    features = random_features()

    fused = fusion(features)

    for i, name in ((1, "text"), (2, "audio"), (3, "image"), (4, "image")):
        given = {n: x.pooled[i] for n, x in features.items() if x.mask[i].any()}
        guess = predicted(fusion, name, given)
        torch.testing.assert_close(spy.seen[name].pooled[i], guess, rtol=0, atol=1e-12)
        assert spy.seen[name].mask[i].sum() == 1
        torch.testing.assert_close(spy.seen[name].tokens[i, spy.seen[name].mask[i]][0], guess, rtol=0, atol=1e-12)
    assert not any(x.present[5] for x in spy.seen.values())
    assert torch.equal(spy.seen["text"].tokens[0], features["text"].tokens[0])
    assert set(fused.penalties) == {"spy", "imputation/text", "imputation/audio", "imputation/image"}


def test_no_loss_and_no_gradient_where_no_sample_has_two_modalities():
    fusion = Imputation(DIMS, Spy()).double()

    fused = fusion(rows(random_features(), [4, 5]))
    sum(fused.penalties.values()).backward()

    assert all(fused.penalties[f"imputation/{name}"] == 0 for name in DIMS)
    assert all(not p.grad.any() for p in fusion.parameters())


def test_the_target_is_not_pulled_towards_its_prediction():
    fusion = Imputation(DIMS, WeightedAverage(DIMS, 8)).double()
    features = watched(random_features())

    fusion(features).penalties["imputation/text"].backward()

    assert features["text"].pooled.grad is None or not features["text"].pooled.grad.any()
    assert features["audio"].pooled.grad.any()


def test_the_share_of_a_prediction_goes_to_what_it_was_made_from():
    features = random_features()

    weights = Imputation(DIMS, Spy("image")).double()(features).weights

    # Sample 3 has text and audio, and the fusion looked at the predicted image alone; sample 4 has text only.
    assert {name: weight[3].item() for name, weight in weights.items()} == {"text": 0.5, "audio": 0.5, "image": 0.0}
    assert {name: weight[4].item() for name, weight in weights.items()} == {"text": 1.0, "audio": 0.0, "image": 0.0}
    assert {name: weight[0].item() for name, weight in weights.items()} == {"text": 0.0, "audio": 0.0, "image": 1.0}
    assert {name: weight[5].item() for name, weight in weights.items()} == {"text": 0.0, "audio": 0.0, "image": 0.0}


def test_learns_to_predict_what_can_be_predicted():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    a = torch.randn(256, 4, generator=generator)
    b = a @ torch.randn(4, 3, generator=generator)
    yes = torch.ones(256).bool()
    features = {"a": Features.from_pooled(a, yes), "b": Features.from_pooled(b, yes)}
    fusion = Imputation({"a": 4, "b": 3}, Concat({"a": 4, "b": 3}, 8), hidden=32)
    optimizer = torch.optim.Adam(fusion.predict.parameters(), lr=1e-2)
    first = fusion(features).penalties["imputation/b"].item()

    for _ in range(200):
        optimizer.zero_grad()
        sum(fusion(features).penalties.values()).backward()
        optimizer.step()

    assert fusion(features).penalties["imputation/b"].item() < 0.05 * first


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Imputation({"text": 4}, Concat({"text": 4}, 8)), "Imputation got the modality 'text' alone"),
        (
            lambda: Imputation(DIMS, Concat({"text": 4}, 8)),
            "a Concat that was built for {'text': 4}. Expected the same",
        ),
        (lambda: Imputation(DIMS, Concat(DIMS, 8), hidden=0), "Imputation got hidden=0"),
        (lambda: Imputation(DIMS, Concat(DIMS, 8), weight=-1.0), "Imputation got weight=-1.0"),
    ],
)
def test_an_imputation_that_cannot_work_is_not_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
