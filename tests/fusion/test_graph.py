"""GraphFusion equals its equation and keeps the promises."""

from itertools import combinations

import pytest
import torch
from fusion_equations import attention_pool, gelu, linear

from mmfuse.fusion.graph import GraphFusion
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion():
    check_fusion(lambda dims: GraphFusion(dims, 8))


@pytest.mark.plain
def test_keeps_them_for_two_modalities_and_other_arguments():
    check_fusion(
        lambda dims: GraphFusion(dims, 8, num_heads=2, num_layers=1, dropout=0.0), dims={"text": 6, "audio": 4}
    )


@pytest.mark.parametrize("names", [["text", "audio", "image"], ["text", "audio"], ["text"]])
def test_equals_its_equation(names):
    torch.manual_seed(0)
    fusion = GraphFusion({name: DIMS[name] for name in names}, 8, num_heads=2).double().eval()
    features = {name: x for name, x in random_features().items() if name in names}

    fused = fusion(features)

    for i in range(6):
        starts = {n: linear(fusion.project[n], x.pooled[i]) for n, x in features.items() if x.present[i]}
        nodes = {(name,): gelu(x[:8]) for name, x in starts.items()}
        for one, other in combinations(starts, 2):
            nodes[one, other] = gelu(starts[one][8:] + starts[other][8:])
        for layer in fusion.layers:
            nodes = round_of_messages(layer, nodes)
        expected = attention_pool(fusion.pool, list(nodes.values()))
        torch.testing.assert_close(fused.features.pooled[i], expected, rtol=0, atol=1e-12)
        shares = shares_of_modalities(fusion.pool, nodes)
        for name in names:
            assert fused.weights[name][i].item() == pytest.approx(shares.get(name, 0), abs=1e-12)


def round_of_messages(layer, nodes):
    messages = {node: (layer.message.weight @ x).reshape(2, 4) for node, x in nodes.items()}
    result = {}
    for node, x in nodes.items():
        near = [n for n in nodes if n == node or len(n) == len(node) == 1 or (len(n) != len(node) and {*n} & {*node})]
        heads = []
        for head in range(2):
            scores = []
            for n in near:
                score = layer.score[head, :, 0] @ messages[node][head] + layer.score[head, :, 1] @ messages[n][head]
                scores.append(torch.exp(score if score > 0 else 0.2 * score))
            heads.append(sum(score / sum(scores) * messages[n][head] for score, n in zip(scores, near, strict=True)))
        result[node] = x + gelu(torch.cat(heads))
    return result


def shares_of_modalities(pool, nodes):
    """The share of each node, mean over heads, a pair's half and half."""
    shares = {}
    for head in range(2):
        rows = slice(4 * head, 4 * head + 4)
        scores = {n: torch.exp(pool.query[head] @ (pool.key.weight[rows] @ x) / 2) for n, x in nodes.items()}
        for node, score in scores.items():
            for name in node:
                part = (score / sum(scores.values())).item() / len(node) / 2
                shares[name] = shares.get(name, 0) + part
    return shares


def test_a_pair_is_joined_to_its_two_modalities_and_no_node_is_isolated():
    fusion = GraphFusion({"a": 2, "b": 2, "c": 2}, 8)

    assert fusion.neighbours.int().tolist() == [
        [1, 1, 1, 1, 1, 0],  # a: a b c ab ac
        [1, 1, 1, 1, 0, 1],
        [1, 1, 1, 0, 1, 1],
        [1, 1, 0, 1, 0, 0],  # ab: a b ab
        [1, 0, 1, 0, 1, 0],
        [0, 1, 1, 0, 0, 1],
    ]


def test_an_absent_modality_leaves_the_graph_of_the_others():
    torch.manual_seed(0)
    fusion = GraphFusion(DIMS, 8).double().eval()
    without = GraphFusion({"text": DIMS["text"], "audio": DIMS["audio"]}, 8).double().eval()
    without.load_state_dict({name: x for name, x in fusion.state_dict().items() if "image" not in name})
    features = random_features()
    features["image"].mask[:] = False

    found = fusion(features)
    expected = without({"text": features["text"], "audio": features["audio"]})

    torch.testing.assert_close(found.features.pooled, expected.features.pooled, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.weights["text"], expected.weights["text"], rtol=0, atol=1e-12)


def test_a_sample_with_nothing_gives_zeros():
    fused = GraphFusion(DIMS, 8).double()(random_features())

    assert not fused.features.pooled[5].any()
    assert not fused.features.present[5]


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 10}, "GraphFusion cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12"),
        ({"dim": 8, "num_layers": 0}, "GraphFusion got num_layers=0. Expected a number above 0"),
        ({"dim": 8, "dropout": 1}, "GraphFusion got dropout=1. Expected a share from 0 to below 1"),
    ],
)
def test_a_fusion_that_cannot_work_is_not_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        GraphFusion(DIMS, **arguments)
