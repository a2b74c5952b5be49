"""Learned tokens in place of absent modalities."""

import pytest
import torch

from mmfuse import Features
from mmfuse.fusion import Concat, CrossAttention
from mmfuse.missing import Placeholder
from mmfuse.testing import DIMS, random_features
from mmfuse.testing.samples import spoiled, watched


@pytest.mark.parametrize("num_tokens", [1, 3, 9])
def test_learned_values_stand_exactly_where_a_modality_is_absent(num_tokens):
    placeholder = Placeholder(DIMS, num_tokens=num_tokens).double()
    features = random_features()

    result = placeholder(features)

    for name, x in features.items():
        for i in range(6):
            tokens = result[name].tokens[i, result[name].mask[i]]
            if x.mask[i].any():  # as it was
                assert torch.equal(tokens, x.tokens[i, x.mask[i]])
                assert torch.equal(result[name].pooled[i], x.pooled[i])
            elif i == 5:  # has nothing at all
                assert not len(tokens)
            else:
                assert torch.equal(tokens, placeholder.tokens[name])
                assert torch.equal(result[name].pooled[i], placeholder.pooled[name])


def test_a_sample_with_nothing_at_all_stays_absent():
    result = Placeholder(DIMS).double()(random_features())

    for x in result.values():
        assert x.present.tolist() == [True] * 5 + [False]


def test_each_modality_may_have_its_own_number_of_tokens():
    placeholder = Placeholder(DIMS, num_tokens={"text": 1, "audio": 2, "image": 5}).double()

    result = placeholder(random_features())

    assert result["image"].mask.shape[1] == 5  # longer than any image
    assert result["image"].mask[3].sum() == 5
    assert result["audio"].mask[2].sum() == 2


def test_what_is_not_real_is_not_read_and_every_placeholder_learns():
    placeholder = Placeholder(DIMS, num_tokens=2).double()
    fusion = CrossAttention(DIMS, 8).double()
    features = watched(spoiled(random_features(), float("nan")))

    pooled = fusion(placeholder(features)).features.pooled
    pooled.sin().sum().backward()

    expected = fusion(placeholder(random_features())).features.pooled
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-12)
    for name, parameter in placeholder.tokens.items():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    for x in features.values():
        assert not x.tokens.grad[~x.mask].any()
    pooled = Concat(DIMS, 8).double()(placeholder(random_features())).features.pooled
    pooled.sum().backward()
    assert all(parameter.grad.any() for parameter in placeholder.pooled.values())


def test_modalities_without_a_placeholder_pass_unchanged_and_count():
    placeholder = Placeholder({"audio": DIMS["audio"]}).double()
    features = random_features()

    result = placeholder(features)

    assert result["text"] is features["text"]
    assert result["audio"].present.tolist() == [True] * 5 + [False]


def test_a_type_that_goes_in_comes_out():
    features = {"text": Features.from_pooled(torch.ones(2, 3).bfloat16(), torch.tensor([False, False]))}
    features["audio"] = Features.from_pooled(torch.ones(2, 3).bfloat16(), torch.tensor([True, False]))

    result = Placeholder({"text": 3})(features)

    assert result["text"].tokens.dtype == result["text"].pooled.dtype == torch.bfloat16
    assert result["text"].present.tolist() == [True, False]


@pytest.mark.plain
def test_compiles_and_exports_whole():
    placeholder, features = Placeholder(DIMS, num_tokens=4).double(), random_features()

    compiled = torch.compile(placeholder, fullgraph=True, backend="eager")(features)
    exported = torch.export.export(placeholder, (features,), strict=False).module()(features)

    for result in (compiled, exported):
        for name, x in placeholder(features).items():
            torch.testing.assert_close(result[name].tokens, x.tokens, rtol=0, atol=0)
            assert torch.equal(result[name].mask, x.mask)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Placeholder({}), "Placeholder got no modalities. Expected dims such as"),
        (
            lambda: Placeholder(DIMS, num_tokens=0),
            r"Placeholder\(num_tokens=...\) got text=0. Expected a number above 0",
        ),
        (lambda: Placeholder(DIMS, num_tokens={"text": 1}), r"got no \['audio', 'image'\], only \['text'\]"),
        (lambda: Placeholder({"a": 2}, num_tokens={"a": 1, "b": 1}), "unknown modality 'b'"),
        (
            lambda: Placeholder({"text": 1})(random_features()),
            "Placeholder was built for 'text' of width 1, but its features have width 6. Expected the same",
        ),
        (lambda: Placeholder({"a": 2})(random_features()), r"Placeholder got no \['a'\], only"),
    ],
)
def test_a_placeholder_that_cannot_work_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
