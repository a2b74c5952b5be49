"""The fusion of some modalities as one modality of another fusion."""

import pytest
import torch
from tiny_data import make_model
from torch import nn

import mmfuse
from mmfuse import Fused, MultimodalModel, dims_of
from mmfuse.fusion import Concat, CrossAttention, WeightedAverage
from mmfuse.fusion.nested import Nested
from mmfuse.missing import Ensure, Imputation
from mmfuse.testing import DIMS, check_fusion, random_features


def nested(dims, inner=Concat, outer=Concat) -> Nested:
    """The first two modalities first, then all."""
    first, second, *others = dims
    rest = {name: dims[name] for name in others}
    pair = inner({first: dims[first], second: dims[second]}, 4)
    return Nested({"pair": pair}, outer({"pair": 4, **rest}, 8))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("inner", "outer"), [(Concat, Concat), (WeightedAverage, WeightedAverage), (Concat, CrossAttention)]
)
def test_keeps_the_promises_of_a_fusion(inner, outer):
    check_fusion(lambda dims: nested(dims, inner, outer))


@pytest.mark.plain
def test_tokens_in_tokens_keep_all_promises_but_one():
    # An outer fusion of tokens does not read the inner pooled vector, see the docstring.
    check_fusion(lambda dims: nested(dims, CrossAttention, CrossAttention), skip={"every parameter learns"})


def test_equals_the_two_fusions_by_hand():
    torch.manual_seed(0)
    fusion = nested(DIMS, CrossAttention, WeightedAverage).double()
    features = random_features()

    fused = fusion(features)

    pair = fusion.inner["pair"]({"text": features["text"], "audio": features["audio"]})
    expected = fusion.outer({"image": features["image"], "pair": pair.features})
    assert torch.equal(fused.features.pooled, expected.features.pooled)
    assert torch.equal(fused.features.present, expected.features.present)


def test_a_share_is_the_share_of_the_group_times_the_share_within_it():
    torch.manual_seed(0)
    given = {"text": 1.0, "audio": 3.0}
    pair = WeightedAverage({n: DIMS[n] for n in given}, 4, weights=given)
    outer = WeightedAverage({"pair": 4, "image": DIMS["image"]}, 8, weights={"pair": 2.0, "image": 3.0})

    weights = Nested({"pair": pair}, outer).double()(random_features()).weights

    expected = {  # by sample: all, no text, no audio, no image, text only, nothing
        "text": [0.1, 0.0, 0.4, 0.25, 1.0, 0.0],
        "audio": [0.3, 0.4, 0.0, 0.75, 0.0, 0.0],
        "image": [0.6, 0.6, 0.6, 0.0, 0.0, 0.0],
    }
    assert set(weights) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(weights[name], torch.tensor(values).double(), rtol=0, atol=1e-6)


def test_a_modality_in_two_groups_gets_both_shares():
    names = (("text", "audio"), ("audio", "image"))
    inner = {"_".join(pair): WeightedAverage({n: DIMS[n] for n in pair}, 4) for pair in names}
    outer = WeightedAverage({"text_audio": 4, "audio_image": 4}, 8)

    weights = Nested(inner, outer).double()(random_features()).weights

    assert {name: weight[0].item() for name, weight in weights.items()} == {"text": 0.25, "audio": 0.5, "image": 0.25}


def test_no_shares_are_reported_where_one_fusion_does_not_tell():
    assert not nested(DIMS, Concat, WeightedAverage).double()(random_features()).weights
    assert not nested(DIMS, WeightedAverage, Concat).double()(random_features()).weights


class Penalised(nn.Module):
    """A fusion with a penalty."""

    def __init__(self, dims, dim):
        super().__init__()
        self.fusion = Concat(dims, dim)

    def forward(self, features):
        return Fused(self.fusion(features).features, penalties={"load": torch.tensor(float(len(features)))})


def test_penalties_say_whose_they_are():
    fusion = nested(DIMS, Penalised, Penalised).double()

    penalties = fusion(random_features()).penalties

    # Who does not remember what it was built for gets all: three, and these with the pair.
    assert {name: value.item() for name, value in penalties.items()} == {"pair/load": 3.0, "load": 4.0}


def test_may_be_nested_deeper_and_stand_round_other_parts():
    dims = {**DIMS, "table": 3}
    pair = Ensure(Imputation({"text": 6, "audio": 4}, Concat({"text": 6, "audio": 4}, 4)))
    middle = Nested({"pair": pair}, Concat({"pair": 4, "image": 5}, 7))
    fusion = Nested({"three": middle}, Concat({"three": 7, "table": 3}, 8)).double()
    features = random_features(dims)

    fused = fusion(features)

    assert torch.equal(fused.features.present, torch.tensor([True] * 5 + [False]))
    assert set(fused.penalties) == {"three/pair/imputation/text", "three/pair/imputation/audio"}


def test_a_model_takes_it_and_it_comes_back_from_a_folder_to_the_bit(tmp_path):
    model = make_model()
    dims = dims_of(model.encoders)
    encoders, tasks = dict(model.encoders.items()), dict(model.tasks.items())
    model = MultimodalModel(encoders, nested_of(dims), tasks).eval()

    mmfuse.save(model, tmp_path / "model")
    loaded = mmfuse.load(tmp_path / "model")

    assert str(loaded.fusion) == str(model.fusion)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def nested_of(dims):
    pair = WeightedAverage({"image": dims["image"], "audio": dims["audio"]}, 16)
    return Nested({"av": pair}, Concat({"av": 16, "text": dims["text"]}, 32))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Nested({}, Concat(DIMS, 8)), "Nested got no inner fusion. Expected one or more"),
        (
            lambda: Nested({"text": Concat({"text": 6, "audio": 4}, 4)}, Concat({"text": 4}, 8)),
            "inner Concat named 'text', and 'text' is one of its modalities. Expected a name of its own",
        ),
        (
            lambda: Nested({"pair": Concat({"text": 6, "audio": 4}, 4)}, Concat({"image": 5}, 8)),
            "an inner fusion 'pair', but the outer Concat was built for {'image': 5}. Expected 'pair' among them",
        ),
        (
            lambda: Nested({"pair": Concat({"text": 6, "audio": 4}, 4)}, Concat({"pair": 5}, 8)),
            "'pair' of width 4, but the outer Concat was built for 'pair' of width 5.* the outer with {'pair': 4}",
        ),
        (lambda: Nested({"a.b": Concat(DIMS, 8)}, Concat({"a.b": 8}, 8)), "cannot be named 'a.b'"),
    ],
)
def test_fusions_that_do_not_fit_together_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
