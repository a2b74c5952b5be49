"""Product of experts and the mixture of products: Gaussian beliefs, multiplied."""

import itertools
import math

import pytest
import torch
from fusion_equations import gelu, linear
from torch.distributions import Normal, kl_divergence

from mmfuse import Features
from mmfuse.fusion.product_of_experts import MixtureOfProducts, ProductOfExperts
from mmfuse.testing import DIMS, check_fusion, random_features

BOTH = pytest.mark.parametrize("method", [ProductOfExperts, MixtureOfProducts])


@pytest.mark.plain
@BOTH
def test_keeps_the_promises_of_a_fusion(method):
    check_fusion(lambda dims: method(dims, 8))


@pytest.mark.plain
@BOTH
def test_two_modalities_keep_the_promises_too(method):
    check_fusion(lambda dims: method(dims, 8), dims={"text": 6, "audio": 4})


def spread(fusion, size=2.0):
    """The same fusion in float64 and evaluation, with experts that differ in what they are sure of."""
    torch.manual_seed(1)
    fusion = fusion.double().eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.mul_(size).add_(0.3 * torch.randn_like(parameter))
    return fusion


def beliefs(fusion, features, i):
    """Mean and variance of each expert that sample i has."""
    found = {}
    for name, x in features.items():
        if x.mask[i].any():
            raw = linear(fusion.expert[name][2], gelu(linear(fusion.expert[name][0], x.pooled[i])))
            size = len(raw) // 2
            found[name] = raw[:size], torch.exp(10 * torch.tanh(raw[size:] / 10))
    return found


def product(experts):
    """Mean and variance of some Gaussians and the prior, multiplied."""
    precision = 1 + sum(1 / variance for _, variance in experts)
    return sum((mean / variance for mean, variance in experts), torch.zeros(8).double()) / precision, 1 / precision


def to_prior(mean, variance):
    return kl_divergence(Normal(mean, variance**0.5), Normal(torch.zeros_like(mean), 1.0)).sum()


def test_product_equals_its_equation():
    fusion, features = spread(ProductOfExperts(DIMS, 8, kl_weight=0.5)), random_features()

    fused = fusion(features)

    divergences = []
    for i in range(6):
        experts = beliefs(fusion, features, i)
        mean, variance = product(list(experts.values())) if experts else (torch.zeros(8).double(), None)
        torch.testing.assert_close(fused.features.pooled[i], mean, rtol=0, atol=1e-12)
        total = sum(1 / v for _, v in experts.values())
        for name in DIMS:
            share = (1 / experts[name][1] / total).mean() if name in experts else torch.zeros(()).double()
            torch.testing.assert_close(fused.weights[name][i], share, rtol=0, atol=1e-12)
        if experts:
            divergences.append(to_prior(mean, variance))
    torch.testing.assert_close(fused.penalties["kl"], 0.5 * sum(divergences) / 5, rtol=0, atol=1e-12)


def test_mixture_equals_its_equation():
    fusion, features = spread(MixtureOfProducts(DIMS, 8, kl_weight=0.5)), random_features()

    fused = fusion(features)

    divergences = []
    for i in range(5):
        experts = beliefs(fusion, features, i)
        subsets = [s for size in range(1, 4) for s in itertools.combinations(experts, size)]
        products = [product([experts[name] for name in subset]) for subset in subsets]
        expected = sum(mean for mean, _ in products) / len(products)
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)
        divergences.append(sum(to_prior(*one) for one in products) / len(products))
        for name in DIMS:
            share = torch.zeros(8).double()
            for subset in subsets:
                if name in subset:
                    share = share + 1 / experts[name][1] / sum(1 / experts[n][1] for n in subset)
            torch.testing.assert_close(fused.weights[name][i], share.mean() / len(subsets), rtol=0, atol=1e-12)
    torch.testing.assert_close(fused.penalties["kl"], 0.5 * sum(divergences) / 5, rtol=0, atol=1e-12)
    assert torch.equal(fused.features.pooled[5], torch.zeros(8).double())


@pytest.mark.parametrize("method", [ProductOfExperts, MixtureOfProducts])
def test_starts_with_little_noise(method):
    fusion = method(DIMS, 8)

    for expert in fusion.expert.values():
        mean, log_variance = expert[2].bias.chunk(2)
        assert mean.abs().max() < 1
        torch.testing.assert_close(log_variance, torch.full_like(log_variance, -5.0), rtol=0, atol=1)


def test_product_is_the_normalised_product_of_densities_on_a_grid():
    fusion, features = spread(ProductOfExperts(DIMS, 1, kl_weight=1.0)), random_features()
    grid = torch.linspace(-40, 40, 400_001, dtype=torch.float64)

    pooled = fusion({name: Features(x.tokens[:1], x.mask[:1], x.pooled[:1]) for name, x in features.items()})

    logarithm = Normal(0.0, 1.0).log_prob(grid)
    for mean, variance in beliefs(fusion, features, 0).values():
        logarithm = logarithm + Normal(mean, variance**0.5).log_prob(grid)
    density = (logarithm - logarithm.max()).exp()
    density = density / torch.trapezoid(density, grid)
    mean = torch.trapezoid(density * grid, grid)
    torch.testing.assert_close(pooled.features.pooled[0, 0], mean, rtol=0, atol=1e-10)
    to_standard = torch.where(density > 0, density * (density.log() - Normal(0.0, 1.0).log_prob(grid)), 0.0)
    torch.testing.assert_close(pooled.penalties["kl"], torch.trapezoid(to_standard, grid), rtol=0, atol=1e-9)


def test_an_absent_modality_is_as_if_it_did_not_exist():
    features = random_features()
    lacking = [i for i in range(6) if not features["image"].present[i]]
    for method in (ProductOfExperts, MixtureOfProducts):
        fusion, fewer = spread(method(DIMS, 8)), method({"text": 6, "audio": 4}, 8).double().eval()
        fewer.load_state_dict({k: v for k, v in fusion.state_dict().items() if "image" not in k})

        whole, part = fusion(features), fewer({name: features[name] for name in ("text", "audio")})

        torch.testing.assert_close(whole.features.pooled[lacking], part.features.pooled[lacking], rtol=0, atol=1e-12)


def test_a_mixture_of_one_product_is_that_product():
    first, second = spread(ProductOfExperts({"text": 6}, 8)), MixtureOfProducts({"text": 6}, 8).double().eval()
    second.load_state_dict(first.state_dict())
    features = {"text": random_features()["text"]}

    one, other = first(features), second(features)

    torch.testing.assert_close(one.features.pooled, other.features.pooled, rtol=0, atol=1e-14)
    torch.testing.assert_close(one.penalties["kl"], other.penalties["kl"], rtol=0, atol=1e-14)
    torch.testing.assert_close(one.weights["text"], features["text"].present.double())


def same_sample(count, names=tuple(DIMS)):
    """One sample, many times, with some of its modalities."""
    return {
        name: Features.from_pooled(x.pooled[:1].expand(count, -1), torch.full((count,), name in names))
        for name, x in random_features().items()
    }


def test_training_draws_from_the_product():
    fusion = spread(ProductOfExperts(DIMS, 8), 1.0)
    mean, variance = product(list(beliefs(fusion, random_features(), 0).values()))

    drawn = fusion.train()(same_sample(20_000)).features.pooled

    torch.testing.assert_close(drawn.mean(dim=0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.var(dim=0), variance, rtol=0.05, atol=0)


def test_training_draws_from_the_mixture():
    fusion = spread(MixtureOfProducts(DIMS, 8), 1.0)
    experts = list(beliefs(fusion, random_features(), 0).items())
    present = dict(e for e in experts if e[0] != "audio")
    products = [product([present[n] for n in s]) for s in (["text"], ["image"], ["text", "image"])]

    drawn = fusion.train()(same_sample(30_000, names=tuple(present))).features.pooled

    mean = sum(m for m, _ in products) / 3
    variance = sum(v + m**2 for m, v in products) / 3 - mean**2
    torch.testing.assert_close(drawn.mean(dim=0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.var(dim=0), variance, rtol=0.05, atol=0)


@BOTH
def test_the_penalty_is_exactly_zero_where_there_is_nothing(method):
    fusion = method(DIMS, 8)
    features = {name: Features.from_pooled(torch.ones(3, d), torch.zeros(3).bool()) for name, d in DIMS.items()}

    fused = fusion(features)
    fused.penalties["kl"].backward()

    assert fused.penalties["kl"].item() == 0.0
    assert fused.features.pooled.isfinite().all()
    assert not fused.features.present.any()


@BOTH
def test_beliefs_stay_bounded_and_in_float32_under_autocast(method):
    fusion = method(DIMS, 8)
    with torch.no_grad():
        for expert in fusion.expert.values():
            expert[2].bias.fill_(-1e4)
    features = {name: Features.from_pooled(torch.ones(3, d), torch.ones(3).bool()) for name, d in DIMS.items()}

    with torch.autocast("cpu", torch.bfloat16):
        fused = fusion.eval()(features)

    assert fused.penalties["kl"].dtype == torch.float32
    assert fused.penalties["kl"].isfinite()
    assert math.isclose(sum(w[0].item() for w in fused.weights.values()), 1.0, abs_tol=0.01)


@BOTH
def test_a_single_modality_goes_through_the_same_interface(method):
    fusion = method({"text": 6}, 8).double()

    fused = fusion({"text": random_features()["text"]})
    fused.features.pooled.sum().backward()

    assert all(parameter.grad is not None for parameter in fusion.parameters())


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ProductOfExperts({}, 8), "ProductOfExperts got no modalities"),
        (lambda: ProductOfExperts(DIMS, 8, kl_weight=-1), "got kl_weight=-1. Expected 0 or more. Give kl_weight=0 to"),
        (lambda: MixtureOfProducts({}, 8), "MixtureOfProducts got no modalities"),
        (lambda: MixtureOfProducts(DIMS, 8, kl_weight=-1), "MixtureOfProducts got kl_weight=-1"),
        (
            lambda: MixtureOfProducts({f"m{i}": 2 for i in range(11)}, 8),
            "got 11 modalities, which have 2047 subsets. Expected 10 modalities at most. Use ProductOfExperts",
        ),
    ],
)
def test_what_cannot_work_is_not_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
