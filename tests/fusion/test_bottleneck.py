"""BottleneckFusion equals its equation, keeps the promises, and lets nothing cross but through the bottleneck."""

from dataclasses import replace

import pytest
import torch
from fusion_equations import assert_equals, linear, real_tokens, self_block

from mmfuse.fusion.bottleneck import BottleneckFusion
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion():
    check_fusion(lambda dims: BottleneckFusion(dims, 8))


@pytest.mark.plain
def test_keeps_them_for_two_modalities_and_other_arguments():
    check_fusion(
        lambda dims: BottleneckFusion(dims, 8, num_bottlenecks=1, fusion_layer=1, num_heads=2),
        dims={"text": 6, "audio": 4},
    )


@pytest.mark.parametrize("fusion_layer", [0, 1])
@pytest.mark.parametrize("names", [["text", "audio", "image"], ["text"]])
def test_equals_its_equation(names, fusion_layer):
    torch.manual_seed(0)
    dims = {name: DIMS[name] for name in names}
    fusion = BottleneckFusion(dims, 8, num_bottlenecks=2, num_heads=2, num_layers=3, fusion_layer=fusion_layer)
    fusion = fusion.double().eval()
    features = {name: x for name, x in random_features().items() if name in names}

    fused = fusion(features)

    for i in range(6):
        streams = {
            name: [fusion.cls[name], *(linear(fusion.project[name], x) for x in tokens)]
            for name, tokens in real_tokens(features, i).items()
            if tokens
        }
        streams = bottleneck_of_one_sample(fusion, streams)
        heads = [stream[0] for stream in streams.values()]
        tokens = [x for stream in streams.values() for x in stream]
        assert_equals(fused, i, sum(heads, torch.zeros(8).double()) / max(len(heads), 1), tokens)


def bottleneck_of_one_sample(fusion, streams):
    shared = list(fusion.bottleneck)
    for place, layer in enumerate(fusion.layers):
        if place < fusion.fusion_layer:
            streams = {name: self_block(layer[name], stream) for name, stream in streams.items()}
            continue
        read = {name: self_block(layer[name], [*stream, *shared]) for name, stream in streams.items()}
        streams = {name: stream[:-2] for name, stream in read.items()}
        if read:
            shared = [sum(stream[place] for stream in read.values()) / len(read) for place in (-2, -1)]
    return {name: [fusion.norm(x) for x in stream] for name, stream in streams.items()}


@pytest.mark.parametrize(("fusion_layer", "crosses"), [(2, False), (1, True), (0, True)])
def test_nothing_crosses_after_one_fusion_layer_and_something_after_two(fusion_layer, crosses):
    torch.manual_seed(0)
    fusion = BottleneckFusion({"text": 6, "audio": 4}, 8, num_layers=3, fusion_layer=fusion_layer).double().eval()
    features = {name: random_features()[name] for name in ("text", "audio")}
    text = 1 + features["text"].tokens.shape[1]  # CLS first
    changed = features | {"audio": replace(features["audio"], tokens=features["audio"].tokens + 1)}

    before, after = fusion(features).features, fusion(changed).features

    moved = (after.tokens[0, :text] - before.tokens[0, :text]).abs().max()
    assert (moved > 1e-6) if crosses else (moved == 0)
    assert (after.pooled[0] - before.pooled[0]).abs().max() > 1e-6  # the readout sees all


def test_information_crosses_by_default():
    fusion = BottleneckFusion(DIMS, 8)

    assert len(fusion.layers) - fusion.fusion_layer >= 2
    assert len(fusion.bottleneck) == 4


def test_a_sample_with_nothing_gives_zeros():
    fusion = BottleneckFusion(DIMS, 8).double().eval()

    fused = fusion(random_features())

    assert not fused.features.pooled[5].any()
    assert not fused.features.present[5]


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 10}, "cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12"),
        ({"dim": 8, "num_bottlenecks": 0}, "BottleneckFusion got num_bottlenecks=0. Expected a number above 0"),
        ({"dim": 8, "dropout": 1}, "BottleneckFusion got dropout=1. Expected a share from 0 to below 1"),
        (
            {"dim": 8, "num_layers": 3, "fusion_layer": 3},
            "BottleneckFusion got fusion_layer=3. Expected a layer from 0 to 2, since num_layers=3. Choose at most 1",
        ),
        ({"dim": 8, "fusion_layer": -1}, "BottleneckFusion got fusion_layer=-1. Expected a layer from 0 to 1"),
    ],
)
def test_a_fusion_that_cannot_work_is_not_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        BottleneckFusion(DIMS, **arguments)
