"""Attention over narrow heads, which are filled up for the kernel of the CPU."""

import pytest
import torch
import torch.nn.functional as F

from mmfuse.layers.attention import scaled_dot_product


@pytest.mark.parametrize("width", [5, 15, 16, 20])
@pytest.mark.parametrize(("queries", "time"), [(7, 9), (1, 9), (9, 1), (40, 9)])
def test_narrow_heads_read_the_same(width, queries, time):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 3, steps, width, generator=generator, dtype=torch.float64, requires_grad=True)
        for steps in (queries, time, time)
    )
    mask = torch.arange(time) < torch.tensor([[time], [1]])
    scores = (q @ k.transpose(-2, -1) / width**0.5).masked_fill(~mask[:, None, None], -torch.inf)
    expected = scores.softmax(dim=-1) @ v
    weigh = torch.randn(expected.shape, generator=generator, dtype=torch.float64)

    read = scaled_dot_product(q, k, v, mask[:, None, None])

    torch.testing.assert_close(read, expected, rtol=0, atol=1e-12)
    actual, wanted = (torch.autograd.grad((weigh * x).sum(), (q, k, v)) for x in (read, expected))
    torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-12)


def test_narrow_heads_read_the_same_without_a_mask():
    q, k, v = torch.randn(3, 2, 3, 7, 5, dtype=torch.float64).unbind()

    torch.testing.assert_close(scaled_dot_product(q, k, v), F.scaled_dot_product_attention(q, k, v), rtol=0, atol=1e-12)
