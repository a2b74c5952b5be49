"""Gradients are measured and clipped as torch does it, bit for bit, and forgotten."""

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from mmfuse.training.gradients import Gradients


def gradients_of(made):
    return Gradients(torch.optim.SGD(made))


def parameters(*dtypes):
    torch.manual_seed(0)
    made = [nn.Parameter(torch.zeros(3 + i, dtype=dtype)) for i, dtype in enumerate(dtypes)]
    for parameter in made[1:]:  # the first has none
        parameter.grad = torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("dtypes", [[torch.float32] * 4, [torch.float32, torch.float64, torch.bfloat16]])
@pytest.mark.parametrize("largest", [0.3, 100.0])
def test_norm_and_clipping_are_those_of_torch(dtypes, largest):
    ours, expected = parameters(*dtypes), parameters(*dtypes)
    gradients = gradients_of(ours)

    norm = gradients.norm()
    gradients.clip(largest, norm)

    assert torch.equal(norm, clip_grad_norm_(expected, largest))
    assert ours[0].grad is None
    for own, other in zip(ours[1:], expected[1:], strict=True):
        assert torch.equal(own.grad, other.grad)


def test_where_nothing_has_a_gradient_the_norm_is_zero():
    gradients = gradients_of(parameters(torch.float32))

    gradients.clip(1.0, gradients.norm())

    assert gradients.norm() == 0


def test_they_are_forgotten():
    made = parameters(torch.float32, torch.float32)

    gradients_of(made).clear()

    assert all(parameter.grad is None for parameter in made)


def test_those_of_parameters_that_the_optimizer_gets_later_are_among_them():
    first, *later = parameters(*[torch.float32] * 3)
    optimizer = torch.optim.SGD([first])
    gradients = Gradients(optimizer)

    optimizer.add_param_group({"params": later})
    gradients.clip(0.3, gradients.norm())

    assert float(gradients.norm()) == pytest.approx(0.3, rel=1e-4)
    gradients.clear()
    assert all(parameter.grad is None for parameter in later)
