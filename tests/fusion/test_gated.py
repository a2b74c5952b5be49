"""GatedFusion and SoftmaxGatedFusion: their promises, their equations and where they coincide."""

import pytest
import torch
from fusion_equations import linear

from mmfuse.fusion.gated import GatedFusion, SoftmaxGatedFusion
from mmfuse.testing import DIMS, check_fusion, random_features

TWO = {"text": 6, "audio": 4}


@pytest.mark.plain
@pytest.mark.parametrize("method", [GatedFusion, SoftmaxGatedFusion])
@pytest.mark.parametrize("dims", [DIMS, TWO], ids=["three", "two"])
def test_keeps_the_promises_of_a_fusion(method, dims):
    check_fusion(lambda dims: method(dims, 8), dims=dims)


def gates_of_one_sample(fusion, vectors):
    """What the linear layer of the gates says of each modality; zeros stand for the absent."""
    filled = [torch.zeros(fusion.value[n].in_features).double() if x is None else x for n, x in vectors]
    return linear(fusion.gate, torch.cat(filled)).split(8)


def check_equation(fusion, features, gates):
    """``gates``: from what the linear layer says and the names of the present to a gate for each of them."""
    fused = fusion(features)

    for i in range(6):
        vectors = {name: x.pooled[i] if x.mask[i].any() else None for name, x in features.items()}
        names = [name for name, x in vectors.items() if x is not None]
        opened = gates(gates_of_one_sample(fusion, vectors.items()), list(features), names)
        expected, total = torch.zeros(8, dtype=torch.float64), sum(opened[name].mean() for name in names)
        for name in names:
            expected = expected + opened[name] * torch.tanh(linear(fusion.value[name], vectors[name]))
            torch.testing.assert_close(fused.weights[name][i], opened[name].mean() / total, rtol=0, atol=1e-12)
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)


def test_three_modalities_have_independent_gates():
    torch.manual_seed(0)

    def gates(said, every, names):
        return {name: 1 / (1 + torch.exp(-said[every.index(name)])) for name in names}

    check_equation(GatedFusion(DIMS, 8).double(), random_features(), gates)


def test_two_modalities_share_one_gate():
    torch.manual_seed(0)

    def gates(said, every, names):
        if len(names) < 2:
            return {name: torch.ones(8, dtype=torch.float64) for name in names}
        first = 1 / (1 + torch.exp(-said[0]))
        return {every[0]: first, every[1]: 1 - first}

    check_equation(GatedFusion(TWO, 8).double(), random_features(TWO), gates)


@pytest.mark.parametrize("dims", [DIMS, TWO], ids=["three", "two"])
def test_softmax_gates_compete_in_each_coordinate(dims):
    torch.manual_seed(0)

    def gates(said, every, names):
        size = {name: torch.exp(said[every.index(name)]) for name in names}
        return {name: size[name] / sum(size.values()) for name in names}

    check_equation(SoftmaxGatedFusion(dims, 8).double(), random_features(dims), gates)


def test_for_two_modalities_both_are_the_same_function():
    torch.manual_seed(0)
    shared, competing = GatedFusion(TWO, 8).double(), SoftmaxGatedFusion(TWO, 8).double()
    shared.value.load_state_dict(competing.value.state_dict())
    with torch.no_grad():
        shared.gate.weight.copy_(competing.gate.weight[:8] - competing.gate.weight[8:])
        shared.gate.bias.copy_(competing.gate.bias[:8] - competing.gate.bias[8:])
    features = random_features(TWO)

    one, other = shared(features), competing(features)

    torch.testing.assert_close(one.features.pooled, other.features.pooled, rtol=0, atol=1e-12)
    for name in TWO:
        torch.testing.assert_close(one.weights[name], other.weights[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [GatedFusion, SoftmaxGatedFusion])
def test_a_modality_cannot_leave_the_range_of_its_tanh(method):
    torch.manual_seed(0)

    pooled = method(TWO, 8).double()(random_features(TWO)).features.pooled

    assert pooled.abs().max() < 1
    assert pooled[5].eq(0).all()
