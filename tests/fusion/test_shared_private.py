"""MISA: what modalities have in common, and what each has alone."""

import itertools

import pytest
import torch
from fusion_equations import attend_self, gelu, linear

from mmfuse import Features
from mmfuse.fusion.shared_private import SharedPrivate
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
@pytest.mark.parametrize("dims", [DIMS, {"text": 6, "audio": 4}], ids=["three", "two"])
def test_keeps_the_promises_of_a_fusion(dims):
    check_fusion(lambda dims: SharedPrivate(dims, 8), dims=dims)


def moved(fusion):
    """The fusion in float64 and evaluation, with every parameter off its initial value."""
    torch.manual_seed(1)
    fusion = fusion.double().eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return fusion


def norm(layer, x):
    return layer.weight * (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() + layer.bias


def encode(fusion, features, i):
    """u, shared and private vector of each modality that sample i has."""
    found = {}
    for name, x in features.items():
        if x.mask[i].any():
            layer = fusion.project[name]
            u = norm(layer[2], linear(layer[0], x.pooled[i]).clamp_min(0))
            shared = torch.sigmoid(linear(fusion.shared[0], u))
            found[name] = u, shared, torch.sigmoid(linear(fusion.private[name][0], u))
    return found


def test_equals_its_equation():
    fusion, features = moved(SharedPrivate(DIMS, 8)), random_features()

    fused = fusion(features)

    block = fusion.transformer
    for i in range(6):
        found = encode(fusion, features, i)
        vectors = {(name, kind): found[name][kind] for kind in (1, 2) for name in found}
        normed = [norm(block.norm_attention, x) for x in vectors.values()]
        read = dict(zip(vectors, attend_self(block.attention, normed), strict=True))
        places = []
        for kind in (1, 2):
            for name in DIMS:
                if name in found:
                    x = vectors[name, kind] + read[name, kind]
                    inner = gelu(linear(block.feed_forward[0], norm(block.norm_feed_forward, x)))
                    places.append(x + linear(block.feed_forward[3], inner))
                else:
                    places.append(fusion.absent[name][kind - 1])
        expected = linear(fusion.mix[3], gelu(linear(fusion.mix[0], torch.cat(places))))
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)


def discrepancy(first, second):
    """Of two lists of vectors."""
    means = [sum(xs) / len(xs) for xs in (first, second)]
    total = ((means[0] - means[1]) ** 2).sum() ** 0.5
    for k in range(2, 6):
        moments = [sum((x - mean) ** k for x in xs) / len(xs) for xs, mean in zip((first, second), means, strict=True)]
        total = total + ((moments[0] - moments[1]) ** 2).sum() ** 0.5
    return total


def overlap(first, second):
    """Of two lists of vectors."""
    units = []
    for xs in (first, second):
        mean = sum(xs) / len(xs)
        units.append([(x - mean) / (((x - mean) ** 2).sum() ** 0.5 + 1e-6) for x in xs])
    product = sum(torch.outer(x, y) for x, y in zip(*units, strict=True)) / len(first)
    return (product**2).sum()


def test_penalties_equal_their_equations():
    weights = {"similarity": 0.5, "difference": 2.0, "reconstruction": 3.0}
    fusion, features = moved(SharedPrivate(DIMS, 8, **weights)), random_features()

    penalties = fusion(features).penalties

    found = [encode(fusion, features, i) for i in range(6)]

    def of(name, kind, other=None):
        return [f[name][kind] for f in found if name in f and (other is None or other in f)]

    pairs = list(itertools.combinations(DIMS, 2))
    similarity = sum(discrepancy(of(m, 1, n), of(n, 1, m)) for m, n in pairs) / 3
    difference = sum(overlap(of(m, 1), of(m, 2)) for m in DIMS)
    difference = difference + sum(overlap(of(m, 2, n), of(n, 2, m)) for m, n in pairs)
    rebuilt = [((u - linear(fusion.decode, c + p)) ** 2).mean() for f in found for u, c, p in f.values()]
    torch.testing.assert_close(penalties["similarity"], 0.5 * similarity, rtol=0, atol=1e-12)
    torch.testing.assert_close(penalties["difference"], 2.0 * difference, rtol=0, atol=1e-12)
    torch.testing.assert_close(penalties["reconstruction"], 3.0 * sum(rebuilt) / len(rebuilt), rtol=0, atol=1e-12)


def only(features, names):
    """The same samples, with these modalities alone."""
    return {
        name: x if name in names else Features(x.tokens, torch.zeros_like(x.mask), x.pooled)
        for name, x in features.items()
    }


def test_penalties_are_over_what_is_present_and_exactly_zero_where_nothing_is():
    fusion, features = moved(SharedPrivate(DIMS, 8)), random_features()

    for names in (["text"], []):
        fused = fusion(only(features, names))
        fusion.zero_grad()
        sum(fused.penalties.values()).backward()

        assert fused.penalties["similarity"].item() == 0.0
        assert (fused.penalties["difference"].item() > 0) == bool(names)
        assert (fused.penalties["reconstruction"].item() > 0) == bool(names)
        assert all(p.grad.isfinite().all() for p in fusion.parameters() if p.grad is not None)


def test_one_sample_has_no_moments_and_no_difference_and_finite_gradients():
    fusion = moved(SharedPrivate(DIMS, 8)).float()
    features = {name: Features.from_pooled(torch.ones(1, d), torch.tensor([True])) for name, d in DIMS.items()}

    penalties = fusion(features).penalties
    sum(penalties.values()).backward()

    found = encode(fusion, features, 0)
    means = [((found[m][1] - found[n][1]) ** 2).sum() ** 0.5 for m, n in itertools.combinations(DIMS, 2)]
    torch.testing.assert_close(penalties["similarity"], sum(means) / 3)
    assert penalties["difference"].item() == 0.0
    assert all(p.grad.isfinite().all() for p in fusion.parameters() if p.grad is not None)


def test_equal_distributions_are_similar_and_independent_spaces_do_not_overlap():
    fusion = SharedPrivate({"a": 4, "b": 4}, 8)
    fusion.project["b"].load_state_dict(fusion.project["a"].state_dict())
    x = Features.from_pooled(torch.randn(16, 4), torch.ones(16).bool())
    with torch.no_grad():
        for name in ("a", "b"):
            fusion.private[name][0].weight.zero_()  # the private vectors say nothing

    penalties = fusion({"a": x, "b": x}).penalties

    assert penalties["similarity"].item() == 0.0
    assert penalties["difference"].item() < 1e-9


def test_training_on_the_penalties_brings_the_shared_together_and_drives_the_private_apart():
    torch.manual_seed(0)
    fusion = SharedPrivate({"a": 6, "b": 4}, 8)
    features = {
        "a": Features.from_pooled(torch.randn(64, 6) + 1, torch.ones(64).bool()),
        "b": Features.from_pooled(torch.randn(64, 4) - 1, torch.ones(64).bool()),
    }
    before = fusion(features).penalties
    optimizer = torch.optim.Adam(fusion.parameters(), lr=1e-2)

    for _ in range(100):
        optimizer.zero_grad()
        sum(fusion(features).penalties.values()).backward()
        optimizer.step()

    after = fusion(features).penalties
    for name, value in before.items():
        assert after[name] < 0.7 * value, name


def test_a_single_modality_goes_through_the_same_interface():
    fusion = SharedPrivate({"text": 6}, 8).double()

    fused = fusion({"text": random_features()["text"]})
    (fused.features.pooled.sum() + sum(fused.penalties.values())).backward()

    assert fused.penalties["similarity"].item() == 0.0
    assert all(parameter.grad is not None for parameter in fusion.parameters())


def test_drops_out_in_training_only():
    fusion, features = SharedPrivate(DIMS, 8, dropout=0.5).double(), random_features()

    assert not torch.equal(fusion(features).features.pooled, fusion(features).features.pooled)
    fusion.eval()
    assert torch.equal(fusion(features).features.pooled, fusion(features).features.pooled)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SharedPrivate({}, 8), "SharedPrivate got no modalities"),
        (lambda: SharedPrivate(DIMS, 9), "SharedPrivate cannot split dim=9 into num_heads=2 equal heads"),
        (lambda: SharedPrivate(DIMS, 8, difference=-1), "SharedPrivate got difference=-1. Expected 0 or more"),
        (lambda: SharedPrivate(DIMS, 8, dropout=1), "SharedPrivate got dropout=1. Expected a share"),
    ],
)
def test_what_cannot_work_is_not_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
