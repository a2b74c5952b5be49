"""CrossAttention equals its equation and keeps the promises."""

import pytest
import torch
from fusion_equations import attend, gelu, linear

from mmfuse.fusion import CrossAttention
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
@pytest.mark.parametrize("arguments", [{}, {"num_heads": 2, "num_layers": 2}])
def test_keeps_the_promises_of_a_fusion(arguments):
    check_fusion(lambda dims: CrossAttention(dims, 8, **arguments))


def test_cross_attention_equals_its_equation():
    torch.manual_seed(0)
    fusion = CrossAttention(DIMS, 8, num_heads=2, num_layers=2).double()
    features = random_features()

    fused = fusion(features)

    for i in range(5):
        expected = cross_attention_of_one_sample(fusion, {n: x.tokens[i, x.mask[i]] for n, x in features.items()})
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)


def cross_attention_of_one_sample(fusion: CrossAttention, real: dict[str, torch.Tensor]) -> torch.Tensor:
    """The equation, token by token and head by head, over the real tokens of one sample."""
    z = {name: [linear(fusion.project[name], x) for x in tokens] for name, tokens in real.items()}
    for layer in fusion.layers:
        before, z = z, {}
        for name, tokens in before.items():
            part = layer[name]
            keys = [layer[n].norm_keys(x) for n in before if n != name for x in before[n]]
            z[name] = []
            for x in tokens:
                y = x + attend(part.attention, part.norm_keys(x), keys) if keys else x
                z[name].append(y + linear(part.feed_forward[2], gelu(linear(part.feed_forward[0], part.norm(y)))))
    slots = [
        sum(fusion.norm[name](x) for x in tokens) / len(tokens) if tokens else fusion.absent[name]
        for name, tokens in z.items()
    ]
    return linear(fusion.out, torch.cat(slots))
