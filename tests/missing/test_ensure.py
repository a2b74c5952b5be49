"""What a sample with nothing at all gives."""

import pytest
import torch

from mmfuse.fusion import Concat, CrossAttention, WeightedAverage
from mmfuse.missing import Ensure
from mmfuse.testing import DIMS, check_fusion, random_features
from mmfuse.testing.samples import rows


@pytest.mark.plain
@pytest.mark.parametrize("make", [Concat, WeightedAverage, CrossAttention])
def test_keeps_the_promises_of_a_fusion(make):
    check_fusion(lambda dims: Ensure(make(dims, 8)))


def test_a_sample_with_nothing_gives_zeros_and_all_others_what_the_fusion_gives():
    fusion = CrossAttention(DIMS, 8).double()
    features = random_features()

    plain, ensured = fusion(features), Ensure(fusion)(features)

    assert plain.features.pooled[5].any()  # by itself it gives something there
    assert not ensured.features.pooled[5].any()
    assert not ensured.features.tokens[5].any()
    assert not ensured.features.present[5]
    assert torch.equal(ensured.features.pooled[:5], plain.features.pooled[:5])
    mask = plain.features.mask
    assert torch.equal(ensured.features.tokens[mask], plain.features.tokens[mask])


def test_weights_and_penalties_pass():
    fusion = WeightedAverage(DIMS, 8).double()

    fused = Ensure(fusion)(random_features())

    assert set(fused.weights) == set(DIMS)


def test_an_error_says_how_many_rows_and_which():
    ensured = Ensure(Concat(DIMS, 8).double(), empty="error")

    with pytest.raises(ValueError, match=r"1 of 6 samples have no modality at all: rows \[5\] of the batch. Expected"):
        ensured(random_features())
    with pytest.raises(ValueError, match=r"12 of 12 samples .*: rows \[0, 1, 2, 3, 4, 5, 6, 7, 8, 9\]... of the batch"):
        ensured(rows(random_features(), [5] * 12))

    assert ensured(rows(random_features(), [0, 1, 4])).features.present.all()


@pytest.mark.plain
def test_a_graph_is_whole_and_gives_zeros_in_place_of_the_error():
    ensured, features = Ensure(Concat(DIMS, 8).double(), empty="error"), random_features()

    compiled = torch.compile(ensured, fullgraph=True, backend="eager")(features)
    exported = torch.export.export(ensured, (features,), strict=False).module()(features)

    for fused in (compiled, exported):
        assert not fused.features.pooled[5].any()


@pytest.mark.plain
def test_another_policy_is_refused():
    with pytest.raises(
        ValueError, match=r"Ensure got empty='zero'. Expected one of \['zeros', 'error'\]. Did you mean"
    ):
        Ensure(Concat(DIMS, 8), empty="zero")
