"""QFormer equals its equation and keeps the promises."""

import pytest
import torch
from fusion_equations import assert_equals, attend, attend_self, feed_forward, linear, real_tokens

from mmfuse.fusion.qformer import QFormer
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion():
    check_fusion(lambda dims: QFormer(dims, 8))


@pytest.mark.plain
def test_keeps_them_for_two_modalities_and_other_arguments():
    check_fusion(
        lambda dims: QFormer(dims, 8, num_queries=3, num_layers=1, num_heads=2, dropout=0.0),
        dims={"text": 6, "audio": 4},
    )


@pytest.mark.parametrize("names", [["text", "audio", "image"], ["text"]])
def test_equals_its_equation(names):
    torch.manual_seed(0)
    dims = {name: DIMS[name] for name in names}
    fusion = QFormer(dims, 8, num_queries=3, num_heads=2, num_layers=3).double().eval()
    features = {name: x for name, x in random_features().items() if name in names}

    fused = fusion(features)

    for i in range(6):
        keys = [linear(fusion.join.project[name], x) for name, xs in real_tokens(features, i).items() for x in xs]
        keys = [fusion.norm_tokens(x) for x in keys]
        queries = list(fusion.queries)
        for place, layer in enumerate(fusion.layers):
            normed = [layer.norm_self(x) for x in queries]
            queries = [x + y for x, y in zip(queries, attend_self(layer.attend_self, normed), strict=True)]
            if place in (0, 2):
                queries = [x + attend(layer.attend_cross, layer.norm_cross(x), keys) for x in queries]
            queries = [x + feed_forward(layer.feed_forward, layer.norm_feed_forward(x)) for x in queries]
        queries = [fusion.norm(x) for x in queries]
        assert_equals(fused, i, sum(queries) / 3, queries)


def test_gives_as_many_tokens_as_it_has_queries():
    fusion = QFormer(DIMS, 8, num_queries=7).double()

    fused = fusion(random_features())

    assert fused.features.tokens.shape == (6, 7, 8)
    assert fused.features.mask.all(dim=1).tolist() == [True] * 5 + [False]


def test_only_layers_of_even_number_read_tokens():
    fusion = QFormer(DIMS, 8, num_layers=4)

    assert [hasattr(layer, "attend_cross") for layer in fusion.layers] == [True, False, True, False]


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 10}, "cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12"),
        ({"dim": 8, "num_queries": 0}, "QFormer got num_queries=0. Expected a number above 0"),
        ({"dim": 8, "num_layers": 0}, "QFormer got num_layers=0. Expected a number above 0"),
        ({"dim": 8, "dropout": 1}, "QFormer got dropout=1. Expected a share from 0 to below 1"),
    ],
)
def test_a_fusion_that_cannot_work_is_not_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        QFormer(DIMS, **arguments)
