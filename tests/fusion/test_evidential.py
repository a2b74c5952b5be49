"""Evidential fusion: opinions, and Dempster's rule."""

import itertools
import math

import pytest
import torch
from fusion_equations import linear

from mmfuse import Features
from mmfuse.fusion.evidential import EvidentialFusion, _combine
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
@pytest.mark.parametrize("dims", [DIMS, {"text": 6, "audio": 4}], ids=["three", "two"])
def test_keeps_the_promises_of_a_fusion(dims):
    check_fusion(lambda dims: EvidentialFusion(dims, 8), dims=dims)


def trained(dims, classes):
    """A fusion whose heads are not 0, as they are at initialisation."""
    torch.manual_seed(0)
    fusion = EvidentialFusion(dims, classes).double()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.normal_(std=0.5)
    return fusion


def opinion(evidence):
    """Belief in each class, and what is left open."""
    strength = sum(evidence) + len(evidence)
    return [e / strength for e in evidence], len(evidence) / strength


def dempster(first, second):
    """Two opinions as one, by the formula of the paper."""
    (b1, u1), (b2, u2) = first, second
    conflict = sum(b1[i] * b2[j] for i in range(len(b1)) for j in range(len(b2)) if i != j)
    belief = [(p * q + p * u2 + q * u1) / (1 - conflict) for p, q in zip(b1, b2, strict=True)]
    return belief, u1 * u2 / (1 - conflict)


def test_equals_its_equation_one_pair_after_the_other():
    fusion, features = trained(DIMS, 4), random_features()

    fused = fusion(features)

    for i in range(6):
        names = [name for name in sorted(DIMS) if features[name].mask[i].any()]
        whole, knows = ([0.0] * 4, 1.0), {}
        for name in names:
            logits = linear(fusion.judge[name], features[name].pooled[i]).tolist()
            evidence = [math.log(1 + math.exp(x)) for x in logits]
            found = fused.features.tokens[i, sorted(DIMS).index(name)]
            assert found.tolist() == pytest.approx(evidence, abs=1e-12)
            own = opinion(evidence)
            whole, knows[name] = dempster(whole, own), 1 - own[1]
        belief, open_ = whole
        assert fused.features.pooled[i].tolist() == pytest.approx([b * 4 / open_ for b in belief], abs=1e-12)
        assert sum(belief) + open_ == pytest.approx(1, abs=1e-12)
        for name in DIMS:
            share = knows[name] / sum(knows.values()) if name in knows else 0.0
            assert fused.weights[name][i].item() == pytest.approx(share, abs=1e-12)


def test_says_the_same_of_every_class_at_initialisation():
    fused = EvidentialFusion(DIMS, 4).double()(random_features())

    torch.testing.assert_close(fused.features.pooled, fused.features.pooled[:, :1].expand(6, 4), rtol=0, atol=0)
    assert fused.features.pooled[0, 0] > math.log(2)


def random_evidence(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(5, 3, 4, generator=g, dtype=torch.float64).mul(6).exp() - 1


def combine(evidence):
    return _combine(evidence, torch.float64)


def test_the_rule_is_commutative_and_associative():
    evidence = random_evidence()
    expected = combine(evidence)

    for order in itertools.permutations(range(3)):
        torch.testing.assert_close(combine(evidence[:, list(order)]), expected, rtol=1e-12, atol=0)
    for first, second, third in [(0, 1, 2), (1, 2, 0), (2, 0, 1)]:
        pair = combine(evidence[:, [first, second]])
        torch.testing.assert_close(
            combine(torch.stack([pair, evidence[:, third]], dim=1)), expected, rtol=1e-12, atol=0
        )


def test_a_vacuous_opinion_changes_nothing_and_one_opinion_is_its_own_combination():
    evidence = random_evidence()
    nothing = torch.zeros_like(evidence[:, :1])

    assert torch.equal(combine(torch.cat([evidence, nothing], dim=1)), combine(evidence))
    torch.testing.assert_close(combine(evidence[:, :1]), evidence[:, 0], rtol=1e-12, atol=0)
    assert torch.equal(combine(nothing), nothing[:, 0])


def test_an_absent_modality_is_as_if_it_did_not_exist():
    torch.manual_seed(0)
    fusion, features = EvidentialFusion(DIMS, 4).double(), random_features()
    lacking = [i for i in range(6) if not features["audio"].present[i]]
    fewer = EvidentialFusion({"text": 6, "image": 5}, 4).double()
    fewer.load_state_dict({k: v for k, v in fusion.state_dict().items() if "audio" not in k})

    whole, part = fusion(features), fewer({name: features[name] for name in ("text", "image")})

    assert lacking
    torch.testing.assert_close(whole.features.pooled[lacking], part.features.pooled[lacking], rtol=0, atol=1e-12)


def test_total_conflict_and_boundless_evidence_stay_finite():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        fusion = EvidentialFusion({"a": 2, "b": 2}, 3).to(dtype)
        with torch.no_grad():
            for name, row in (("a", 0), ("b", 1)):
                fusion.judge[name].weight.zero_()
                fusion.judge[name].bias.fill_(-60000.0 if dtype == torch.float16 else -1e30)
                fusion.judge[name].bias[row] = 60000.0 if dtype == torch.float16 else 1e30
        x = Features.from_pooled(torch.ones(2, 2, dtype=dtype), torch.tensor([True, True]))

        pooled = fusion({"a": x, "b": x}).features.pooled
        pooled.float().sum().backward()

        assert pooled.dtype == dtype
        assert pooled.sum(dim=1).isfinite().all()
        assert torch.equal(pooled[:, 0], pooled[:, 1])  # both are as sure as the other
        assert pooled[0, 2] == 0
        assert all(p.grad.isfinite().all() for p in fusion.parameters())


def test_nobody_who_is_present_is_without_a_share_where_nobody_knows_anything():
    fusion = EvidentialFusion({"a": 2, "b": 2}, 3)
    with torch.no_grad():
        for layer in fusion.judge.values():
            layer.bias.fill_(-1e4)
    x = Features.from_pooled(torch.zeros(1, 2), torch.tensor([True]))

    fused = fusion({"a": x, "b": x})

    assert fused.features.pooled.tolist() == [[0.0] * 3]
    assert [weight.item() for weight in fused.weights.values()] == [0.5, 0.5]


def test_a_single_modality_gives_its_own_evidence():
    fusion, features = trained({"text": 6}, 8), {"text": random_features()["text"]}

    fused = fusion(features)
    fused.features.pooled.sum().backward()

    torch.testing.assert_close(fused.features.pooled[0], fused.features.tokens[0, 0])
    torch.testing.assert_close(fused.weights["text"], features["text"].present.double())
    assert all(parameter.grad is not None for parameter in fusion.parameters())


@pytest.mark.plain
def test_what_cannot_work_is_not_built():
    with pytest.raises(ValueError, match="EvidentialFusion got no modalities"):
        EvidentialFusion({}, 8)
    with pytest.raises(ValueError, match="EvidentialFusion got text=0"):
        EvidentialFusion({"text": 0}, 8)
