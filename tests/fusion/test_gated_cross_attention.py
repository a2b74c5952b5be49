"""GatedCrossAttention equals its equation, starts as the identity and keeps the promises."""

import pytest
import torch
from fusion_equations import attend, feed_forward, linear
from torch import nn

from mmfuse import MultimodalModel
from mmfuse.fusion.gated_cross_attention import GatedCrossAttention
from mmfuse.layers.masking import masked_mean
from mmfuse.testing import DIMS, check_fusion, random_features
from mmfuse.training import parameter_groups


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion():
    check_fusion(lambda dims: GatedCrossAttention(dims, 8))


@pytest.mark.plain
def test_keeps_them_for_another_main_modality():
    check_fusion(lambda dims: GatedCrossAttention(dims, 8, main=list(dims)[1], num_heads=2, num_layers=1))


@pytest.mark.plain
def test_keeps_them_for_two_modalities():
    check_fusion(lambda dims: GatedCrossAttention(dims, 8), dims={"text": 6, "audio": 4})


def opened(names=tuple(DIMS), **arguments):
    """One with gates that are open, in float64."""
    torch.manual_seed(0)
    fusion = GatedCrossAttention({name: DIMS[name] for name in names}, 8, num_heads=2, **arguments).double().eval()
    with torch.no_grad():
        for name, parameter in fusion.named_parameters():
            if parameter.dim() == 0:
                parameter.normal_()
            assert parameter.dim() > 0 or name.split(".")[-1] in ("alpha", "beta")
    return fusion


@pytest.mark.parametrize(("main", "names"), [("text", ["text", "audio", "image"]), ("audio", ["text", "audio"])])
def test_equals_its_equation(main, names):
    fusion = opened(names, main=main)
    features = {name: x for name, x in random_features().items() if name in names}

    fused = fusion(features)

    for i in range(6):
        expected = one_sample(fusion, {n: x.tokens[i, x.mask[i]] for n, x in features.items()})
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)


def one_sample(fusion, real):
    """The equation over the real tokens of one sample."""
    join = fusion.others.join.project
    keys = [fusion.others.norm(linear(join[name], x)) for name in join for x in real[name]]
    tokens = [linear(fusion.project, x) for x in real[fusion.main]]
    if keys and not tokens:
        tokens = [fusion.others.absent]
    for layer in fusion.layers:
        read = [torch.tanh(layer.alpha) * attend(layer.attention, layer.norm_attention(x), keys) for x in tokens]
        tokens = [x + y for x, y in zip(tokens, read, strict=True)]
        tokens = [
            y + torch.tanh(layer.beta) * feed_forward(layer.feed_forward, layer.norm_feed_forward(y)) for y in tokens
        ]
    return sum(tokens) / len(tokens) if tokens else torch.zeros(8, dtype=torch.float64)


def test_is_the_identity_at_the_start():
    fusion = GatedCrossAttention(DIMS, 8).double()
    features = random_features()
    features = {**features, "text": features["text"].zeroed()}

    fused = fusion(features)

    here = features["text"].present
    projected = fusion.project(features["text"].tokens)
    assert torch.equal(fused.features.tokens[here], projected[here])
    assert torch.equal(fused.features.pooled[here], masked_mean(projected, features["text"].mask)[here])


def test_one_learned_token_stands_in_for_an_absent_main_modality():
    fusion = opened()
    features = random_features()  # sample 1 lacks text, sample 5 everything

    fused = fusion(features)

    assert fused.features.mask[1].tolist() == [True, False, False, False, False]
    assert not fused.features.mask[5].any()
    assert not fused.features.pooled[5].any()


def test_gates_are_not_decayed():
    fusion = GatedCrossAttention(DIMS, 8)
    encoders = {name: nn.Embedding(2, width) for name, width in DIMS.items()}
    for name, width in DIMS.items():
        encoders[name].dim = width
    groups = parameter_groups(MultimodalModel(encoders, fusion, {"label": nn.Linear(8, 1)}))

    kept = {id(parameter) for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}

    assert {id(gate) for layer in fusion.layers for gate in (layer.alpha, layer.beta)} <= kept


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 10}, "GatedCrossAttention cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12"),
        ({"dim": 8, "main": "txt"}, "GatedCrossAttention got main='txt'.* Did you mean 'text'?"),
        ({"dim": 8, "num_layers": 0}, "GatedCrossAttention got num_layers=0. Expected a number above 0"),
        ({"dim": 8, "dropout": 1.0}, "GatedCrossAttention got dropout=1.0. Expected a share from 0 to below 1"),
    ],
)
def test_one_that_cannot_work_is_not_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        GatedCrossAttention({"text": 4, "audio": 4}, **arguments)
