"""BLOCK: its promises, its equation, and MUTAN as its special case."""

import pytest
import torch
from fusion_equations import linear

from mmfuse.fusion.block import BLOCK
from mmfuse.fusion.mutan import MUTAN
from mmfuse.testing import DIMS, check_fusion, random_features

TWO = {"text": 6, "audio": 4}


@pytest.mark.plain
@pytest.mark.parametrize("keywords", [{}, {"width": 6, "chunks": 2, "rank": 3}], ids=["default", "two chunks"])
def test_keeps_the_promises_of_a_fusion(keywords):
    check_fusion(lambda dims: BLOCK(dims, 8, **keywords), dims=TWO)


def test_equals_its_equation():
    torch.manual_seed(0)
    fusion = BLOCK(TWO, 8, width=6, chunks=2, rank=4).double()
    features = random_features(TWO)
    with torch.no_grad():
        for bias in fusion.factor_bias.values():
            bias.normal_()

    fused = fusion(features)

    for i in range(6):
        z = []
        for c in range(2):
            for k in range(3):
                total = 0.0
                for r in range(4):
                    term = torch.ones((), dtype=torch.float64)
                    for name, x in features.items():
                        if x.mask[i].any():
                            chunk = linear(fusion.project[name], x.pooled[i])[3 * c : 3 * c + 3]
                            place = 3 * r + k
                            column, bias = fusion.factor[name][c][:, place], fusion.factor_bias[name][c, 0, place]
                            term = term * (column @ chunk + bias)
                    total = total + term
                z.append(total)
        torch.testing.assert_close(fused.features.pooled[i], linear(fusion.out, torch.stack(z)), rtol=0, atol=1e-12)


def test_with_one_chunk_and_the_same_rank_it_is_mutan():
    torch.manual_seed(0)
    block, mutan = BLOCK(TWO, 8, width=7, chunks=1, rank=3).double(), MUTAN(TWO, 8, width=7, rank=3).double()
    features = random_features(TWO)

    mutan.project.load_state_dict(block.project.state_dict())
    mutan.out.load_state_dict(block.out.state_dict())
    with torch.no_grad():
        for name in TWO:
            block.factor_bias[name].normal_()
            mutan.factor[name].weight.copy_(block.factor[name][0].T)
            mutan.factor[name].bias.copy_(block.factor_bias[name].flatten())

    expected = mutan(features).features.pooled
    torch.testing.assert_close(block(features).features.pooled, expected, rtol=0, atol=1e-12)


def test_nothing_crosses_from_one_chunk_to_another():
    torch.manual_seed(0)
    fusion = BLOCK(TWO, 6, width=6, chunks=3, rank=2).double()
    torch.nn.init.eye_(fusion.out.weight)
    features = random_features(TWO)

    before = fusion(features).features.pooled
    with torch.no_grad():
        fusion.project["text"].bias[:2] += 1.0
    after = fusion(features).features.pooled

    changed = (before[0] - after[0]).abs() > 1e-9
    assert changed.tolist() == [True, True, False, False, False, False]


def test_the_width_is_the_first_multiple_of_the_chunks():
    fusion = BLOCK(TWO, 10, chunks=4)

    assert fusion.out.in_features == 12


def test_dropout_acts_in_training_only():
    fusion = BLOCK(TWO, 8, dropout=0.5).double()
    features = random_features(TWO)

    training = [fusion(features).features.pooled for _ in range(2)]
    fusion.eval()
    evaluation = [fusion(features).features.pooled for _ in range(2)]

    assert not torch.equal(*training)
    torch.testing.assert_close(*evaluation, rtol=0, atol=0)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BLOCK(DIMS, 8), "BLOCK got 3 modalities.*Expected exactly two.*Use MFB"),
        (lambda: BLOCK(TWO, 8, width=0), "BLOCK got width=0. Expected a number above 0"),
        (lambda: BLOCK(TWO, 8, chunks=0), "BLOCK got chunks=0. Expected a number above 0"),
        (lambda: BLOCK(TWO, 8, rank=0), "BLOCK got rank=0. Expected a number above 0"),
        (lambda: BLOCK(TWO, 8, width=9, chunks=2), "cannot cut width=9 into chunks=2 equal chunks.*Choose width=10"),
        (lambda: BLOCK(TWO, 8, dropout=1.0), "BLOCK got dropout=1.0. Expected a share"),
    ],
)
def test_refuses_what_cannot_work(build, message):
    with pytest.raises(ValueError, match=message):
        build()
