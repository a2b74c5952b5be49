"""MultiplicativeInteraction: its promises, its equation, and its reading as a hypernetwork."""

import pytest
import torch

from mmfuse.fusion.multiplicative_interaction import MultiplicativeInteraction
from mmfuse.testing import DIMS, check_fusion, random_features

TWO = {"text": 6, "audio": 4}


@pytest.mark.plain
@pytest.mark.parametrize("keywords", [{"rank": None}, {"rank": 5}], ids=["full", "one side in factors"])
def test_keeps_the_promises_of_a_fusion(keywords):
    check_fusion(lambda dims: MultiplicativeInteraction(dims, 8, **keywords), dims=TWO)


@pytest.mark.parametrize("rank", [None, 5, 3])
def test_equals_its_equation(rank):
    torch.manual_seed(0)
    fusion = MultiplicativeInteraction(TWO, 8, rank=rank).double()
    features = random_features(TWO)
    torch.nn.init.normal_(fusion.bias)
    full = full_tensor(fusion)  # (6, 4, 8)
    u, v = (fusion.linear[name].weight for name in TWO)

    fused = fusion(features)

    for i in range(6):
        z, x = (f.pooled[i] if f.mask[i].any() else torch.zeros_like(f.pooled[i]) for f in features.values())
        for o in range(8):
            expected = z @ full[:, :, o] @ x + u[o] @ z + v[o] @ x + fusion.bias[o]
            torch.testing.assert_close(fused.features.pooled[i, o], expected, rtol=0, atol=1e-12)


def full_tensor(fusion):
    """W, one slice at a time, from its factors."""
    matrices = []
    for name, width in TWO.items():
        layer = fusion.project[name]
        matrices.append(torch.eye(width).double() if isinstance(layer, torch.nn.Identity) else layer.weight)
    left, right = matrices
    return torch.stack([left.T @ fusion.product[:, :, o] @ right for o in range(8)], dim=2)


def test_is_a_linear_layer_whose_weights_the_first_modality_makes():
    torch.manual_seed(0)
    fusion = MultiplicativeInteraction(TWO, 8, rank=None).double()
    torch.nn.init.normal_(fusion.bias)
    features = random_features(TWO)
    z, x = features["text"].pooled[0], features["audio"].pooled[0]

    fused = fusion(features)

    weight = torch.stack([z @ fusion.product[:, :, o] for o in range(8)]) + fusion.linear["audio"].weight
    bias = fusion.linear["text"].weight @ z + fusion.bias
    torch.testing.assert_close(fused.features.pooled[0], weight @ x + bias, rtol=0, atol=1e-12)


def test_the_linear_map_of_the_other_remains_where_one_is_absent():
    torch.manual_seed(0)
    fusion = MultiplicativeInteraction(TWO, 8).double()
    features = random_features(TWO)

    fused = fusion(features).features.pooled

    torch.testing.assert_close(fused[4], fusion.linear["text"].weight @ features["text"].pooled[4], rtol=0, atol=1e-12)
    torch.testing.assert_close(fused[5], fusion.bias, rtol=0, atol=0)


def test_the_factors_bound_the_number_of_parameters():
    wide = {"text": 768, "audio": 768}

    count = sum(parameter.numel() for parameter in MultiplicativeInteraction(wide, 512).parameters())

    assert count == 2 * 768 * (64 + 512) + 64 * 64 * 512 + 512


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultiplicativeInteraction(DIMS, 8), "got 3 modalities.*Expected exactly two.*Use TensorFusion"),
        (lambda: MultiplicativeInteraction(TWO, 8, rank=0), "got rank=0. Expected a number above 0"),
    ],
)
def test_refuses_what_cannot_work(build, message):
    with pytest.raises(ValueError, match=message):
        build()
