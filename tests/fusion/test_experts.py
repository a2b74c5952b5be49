"""Mixture of experts over all modalities."""

import math

import pytest
import torch
from fusion_equations import gelu, linear

from mmfuse import Features
from mmfuse.fusion.experts import ExpertFusion
from mmfuse.testing import DIMS, check_fusion, random_features

BOTH = pytest.mark.parametrize("top_k", [None, 2])


@pytest.mark.plain
@BOTH
def test_keeps_the_promises_of_a_fusion(top_k):
    check_fusion(lambda dims: ExpertFusion(dims, 8, top_k=top_k))


@pytest.mark.plain
def test_two_modalities_keep_the_promises_too():
    check_fusion(lambda dims: ExpertFusion(dims, 8), dims={"text": 6, "audio": 4})


def moved(fusion):
    """The fusion in float64 and evaluation, with every parameter off its initial value."""
    torch.manual_seed(1)
    fusion = fusion.double().eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return fusion


def what_the_gate_sees(fusion, features, i):
    slots, present = [], []
    for name, x in features.items():
        here = bool(x.mask[i].any())
        slots.append(linear(fusion.project[name], x.pooled[i]) if here else fusion.absent[name])
        present.append(float(here))
    return torch.cat(slots), torch.cat([*slots, torch.tensor(present).double()])


def expert(fusion, k, x):
    rows = slice(8 * k, 8 * k + 8)
    hidden = gelu(fusion.inner.weight[rows] @ x + fusion.inner.bias[rows])
    return hidden @ fusion.outer[k] + fusion.outer_bias[k]


def variation(values):
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values) / mean**2


@BOTH
def test_equals_its_equation(top_k):
    fusion, features = moved(ExpertFusion(DIMS, 8, num_experts=5, top_k=top_k, balance=0.5)), random_features()

    fused = fusion(features)

    importance, load = [0.0] * 5, [0.0] * 5
    for i in range(6):
        x, seen = what_the_gate_sees(fusion, features, i)
        scores = [fusion.gate.weight[k] @ seen for k in range(5)]
        order = sorted(range(5), key=lambda k: -scores[k].item())
        kept = order[: top_k or 5]
        total = sum(torch.exp(scores[k]) for k in kept)
        expected = torch.zeros(8, dtype=torch.float64)
        for k in kept:
            expected = expected + torch.exp(scores[k]) / total * expert(fusion, k, x)
            importance[k] = importance[k] + torch.exp(scores[k]) / total * (i < 5)  # sample 5 has nothing
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)
        if top_k:
            for k in range(5):
                others = [scores[j] for j in order if j != k]
                spread = torch.log(1 + torch.exp(fusion.noise.weight[k] @ seen)) + 0.01
                chance = 0.5 * (1 + torch.erf((scores[k] - others[top_k - 1]) / spread / math.sqrt(2)))
                load[k] = load[k] + chance * (i < 5)
    torch.testing.assert_close(fused.penalties["importance"], 0.5 * variation(importance), rtol=0, atol=1e-12)
    assert set(fused.penalties) == ({"importance", "load"} if top_k else {"importance"})
    if top_k:
        torch.testing.assert_close(fused.penalties["load"], 0.5 * variation(load), rtol=0, atol=1e-12)


@BOTH
def test_gates_are_shares_and_so_many_as_asked_for(top_k):
    fusion, features = moved(ExpertFusion(DIMS, 8, top_k=top_k)), random_features()

    gates = fusion.gates(features)

    torch.testing.assert_close(gates.sum(dim=1), torch.ones(6).double())
    assert (gates > 0).sum(dim=1).tolist() == [top_k or 4] * 6


def test_starts_with_equal_shares_and_no_imbalance():
    fusion, features = ExpertFusion(DIMS, 8).double().eval(), random_features()

    assert torch.equal(fusion.gates(features), torch.full((6, 4), 0.25).double())
    assert fusion(features).penalties["importance"].item() == 0.0


def test_the_gate_sees_which_modalities_are_present():
    fusion = ExpertFusion(DIMS, 8, num_experts=2).double().eval()
    with torch.no_grad():
        fusion.gate.weight[0, -3:] = torch.tensor([0.0, 50.0, 0.0])  # asks expert 0 where audio is there
        fusion.gate.weight[1, -3:] = 25.0 / 3
    features = random_features()

    chosen = fusion.gates(features).argmax(dim=1)

    assert torch.equal((chosen == 0)[:5], features["audio"].present[:5])  # with nothing at all both are equal


def test_noise_lets_every_expert_answer_in_training_only():
    fusion = ExpertFusion({"text": 6}, 8, top_k=1).double()
    x = Features.from_pooled(torch.ones(200, 6).double(), torch.ones(200).bool())

    busy = fusion.gates({"text": x}).sum(dim=0)
    fusion.eval()
    quiet = fusion.gates({"text": x})

    assert (busy > 20).all()
    assert torch.equal(quiet, quiet[:1].expand(200, -1))


def test_the_chance_to_be_kept_is_how_often_it_happens():
    fusion = moved(ExpertFusion({"text": 6}, 8, top_k=2)).train()
    fusion.gate.weight.data.mul_(0.3)
    x = Features.from_pooled(torch.ones(20_000, 6).double(), torch.ones(20_000).bool())
    joined, present = fusion._join({"text": x})

    gates, load = fusion._route(joined, present)

    torch.testing.assert_close(load.mean(dim=0), (gates > 0).double().mean(dim=0), rtol=0, atol=0.02)


def test_balance_is_measured_on_the_samples_that_have_something():
    fusion = moved(ExpertFusion(DIMS, 8, top_k=2))
    whole = random_features()
    real = {name: Features(x.tokens[:5], x.mask[:5], x.pooled[:5]) for name, x in whole.items()}
    nothing = {name: Features(x.tokens[5:], x.mask[5:], x.pooled[5:]) for name, x in whole.items()}

    for name in ("importance", "load"):
        torch.testing.assert_close(fusion(whole).penalties[name], fusion(real).penalties[name])
        assert fusion(nothing).penalties[name].item() == 0.0


def test_one_expert_is_a_projection_and_an_mlp():
    fusion, features = moved(ExpertFusion(DIMS, 8, num_experts=1)), random_features()

    fused = fusion(features)

    for i in range(6):
        x, _ = what_the_gate_sees(fusion, features, i)
        torch.testing.assert_close(fused.features.pooled[i], expert(fusion, 0, x), rtol=0, atol=1e-12)
    assert fused.penalties["importance"].item() == 0.0


@BOTH
def test_a_single_modality_goes_through_the_same_interface(top_k):
    fusion = ExpertFusion({"text": 6}, 8, top_k=top_k).double()

    fused = fusion({"text": random_features()["text"]})
    fused.features.pooled.sum().backward()

    assert all(parameter.grad is not None for parameter in fusion.parameters())


def test_drops_out_in_training_only():
    fusion, features = ExpertFusion(DIMS, 8, dropout=0.5).double(), random_features()

    assert not torch.equal(fusion(features).features.pooled, fusion(features).features.pooled)
    fusion.eval()
    assert torch.equal(fusion(features).features.pooled, fusion(features).features.pooled)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ExpertFusion({}, 8), "ExpertFusion got no modalities"),
        (lambda: ExpertFusion(DIMS, 8, num_experts=0), "ExpertFusion got num_experts=0. Expected a number above 0"),
        (lambda: ExpertFusion(DIMS, 8, top_k=0), "ExpertFusion got top_k=0"),
        (
            lambda: ExpertFusion(DIMS, 8, top_k=4),
            "got top_k=4 of num_experts=4. Expected fewer than there are. Use top_k=None",
        ),
        (lambda: ExpertFusion(DIMS, 8, balance=-0.1), "ExpertFusion got balance=-0.1. Expected 0 or more"),
        (lambda: ExpertFusion(DIMS, 8, dropout=1), "ExpertFusion got dropout=1. Expected a share"),
    ],
)
def test_what_cannot_work_is_not_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()
