"""Contraction of a weight tensor with vectors, and layers that keep variance."""

import pytest
import torch

from mmfuse.layers.linear import unit_linear
from mmfuse.layers.outer import cheapest_split, contract, outer, product_of_present, with_one


@pytest.mark.parametrize("sizes", [(5,), (3, 4), (40, 2), (2, 40), (3, 4, 5), (9, 2, 9), (2, 3, 2, 3)])
@pytest.mark.parametrize("dim", [1, 7])
def test_contract_equals_the_whole_product_times_the_core(sizes, dim):
    generator = torch.Generator().manual_seed(0)
    core = torch.randn(*sizes, dim, dtype=torch.float64, generator=generator, requires_grad=True)
    vectors = [torch.randn(6, n, dtype=torch.float64, generator=generator, requires_grad=True) for n in sizes]

    result = contract(core, vectors)
    expected = outer(vectors) @ core.flatten(0, -2)

    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    given = torch.randn(6, dim, dtype=torch.float64, generator=generator)
    gradients = (torch.autograd.grad(x, [core, *vectors], given) for x in (result, expected))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("sizes", "dim", "split"),
    [
        ((129, 17, 129), 16, 2),  # 129 * 17 numbers, then 129 * 16
        ((65, 65, 65), 128, 2),
        ((769, 769), 128, 1),  # 769 * 128 numbers instead of 769 * 769
        ((65, 65), 512, 2),  # 65 * 65 numbers instead of 65 * 512
        ((5,), 3, 1),
    ],
)
def test_the_split_that_writes_least_is_taken(sizes, dim, split):
    assert cheapest_split(sizes, dim) == split


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")  # of torch 2.11
def test_contract_writes_far_less_than_the_product():
    core, vectors = torch.randn(33, 33, 33, 4), [torch.randn(8, 33) for _ in range(3)]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        contract(core, vectors)

    written = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    assert written < 0.1 * 4 * 8 * 33**3


def test_the_outer_product_runs_fastest_over_the_last_vector():
    product = outer([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0, 7.0]])])

    assert product.tolist() == [[3.0, 5.0, 7.0, 6.0, 10.0, 14.0]]


def test_a_one_is_appended():
    assert with_one(torch.tensor([[2.0, 3.0]])).tolist() == [[2.0, 3.0, 1.0]]


def test_an_absent_factor_is_1_and_gets_no_gradient():
    factors = [torch.tensor([[2.0], [2.0]], requires_grad=True), torch.tensor([[3.0], [5.0]], requires_grad=True)]
    present = torch.tensor([[True, True], [True, False]])

    product = product_of_present(factors, present)
    product.sum().backward()

    assert product.tolist() == [[6.0], [2.0]]
    assert factors[1].grad.tolist() == [[2.0], [0.0]]


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_a_unit_linear_layer_keeps_the_variance(gain):
    torch.manual_seed(0)
    layer = unit_linear(500, 400, gain=gain)

    result = layer(torch.randn(300, 500))

    assert result.var().item() == pytest.approx(gain**2, rel=0.05)
    assert not layer.bias.any()
    assert unit_linear(3, 2, bias=False).bias is None
