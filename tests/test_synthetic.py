"""Made-up samples: their best accuracy in closed form, and which fusions can reach it."""

import itertools
import math

import pytest
import torch
from torch import nn

from mmfuse import Batch, MultimodalModel
from mmfuse.data import make_synthetic
from mmfuse.data.synthetic import KINDS, Synthetic
from mmfuse.encoders import FeatureEncoder
from mmfuse.fusion import Concat, CrossAttention, WeightedAverage
from mmfuse.fusion.late import LateFusion
from mmfuse.tasks import Classification

NAMES = ("a", "b", "c")
SUBSETS = [names for k in range(4) for names in itertools.combinations(NAMES, k)]


def entropy(p: float) -> float:
    return -sum(x * math.log(x) for x in (p, 1 - p) if x)


def test_synergy_is_chance_until_the_last_modality():
    data = make_synthetic("synergy", 10, flip=0.1)

    for names in SUBSETS:
        whole = len(names) == 3
        assert data.bayes_accuracy(names) == pytest.approx(0.9 if whole else 0.5)
        assert data.bayes_log_loss(names) == pytest.approx(entropy(0.1) if whole else math.log(2))


def test_redundancy_is_a_vote():
    data = make_synthetic("redundancy", 10, flip=0.2)

    assert [data.bayes_accuracy(NAMES[:k]) for k in range(4)] == pytest.approx([0.5, 0.8, 0.8, 0.896])
    assert data.bayes_log_loss(NAMES[:1]) == pytest.approx(entropy(0.2))


def test_uniqueness_loses_a_half_with_each_modality():
    data = make_synthetic("uniqueness", 10, flip=0.1)

    assert [data.bayes_accuracy(NAMES[:k]) for k in range(4)] == pytest.approx([1 / 8, 0.9 / 4, 0.81 / 2, 0.729])
    assert data.bayes_log_loss(NAMES[:2]) == pytest.approx(2 * entropy(0.1) + math.log(2))
    assert data.num_classes == 8


def test_mixed_is_the_product_of_its_three_bits():
    data = make_synthetic("mixed", 10, flip=0.2)

    assert data.bayes_accuracy(NAMES) == pytest.approx(0.896 * 0.8 * 0.8)
    assert data.bayes_accuracy(("b", "c")) == pytest.approx(0.8 * 0.5 * 0.5)
    assert data.bayes_accuracy(("a",)) == pytest.approx(0.8 * 0.5 * 0.8)


@pytest.mark.parametrize("flip", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_closed_forms_are_what_the_best_rule_gets(kind, flip):
    data = make_synthetic(kind, 200_000, dim=3, flip=flip, seed=3)
    labels = data.batch.targets["label"].values

    for names in SUBSETS:
        accuracy, loss = best_rule(data, names, labels)
        assert accuracy == pytest.approx(data.bayes_accuracy(names), abs=0.006)
        assert loss == pytest.approx(data.bayes_log_loss(names), abs=0.006)


def best_rule(data: Synthetic, names: tuple[str, ...], labels: torch.Tensor) -> tuple[float, float]:
    """Count which labels come with each pattern of bits, on one half, and answer by that on the other."""
    seen = torch.cat([torch.zeros(len(labels), 1).bool(), *(data.shown[name] for name in names)], dim=1)
    code = (seen * 2 ** torch.arange(seen.shape[1])).sum(dim=1)
    half = len(labels) // 2
    counts = torch.zeros(int(code.max()) + 1, data.num_classes)
    counts.index_put_((code[:half], labels[:half]), torch.ones(half), accumulate=True)
    probability = (counts + 1e-3) / (counts + 1e-3).sum(dim=1, keepdim=True)
    answer = probability[code[half:]]
    chosen = answer.gather(1, labels[half:, None]).log()
    return (answer.argmax(dim=1) == labels[half:]).float().mean().item(), -chosen.mean().item()


@pytest.mark.parametrize("modalities", [NAMES, {"a": 1, "b": 6, "c": 3}])
@pytest.mark.parametrize("kind", KINDS)
def test_the_features_show_the_bits_and_nothing_else(kind, modalities):
    data = make_synthetic(kind, 500, modalities=modalities, dim=5)

    for name, x in data.batch.inputs.items():
        count = data.shown[name].shape[1]
        features = FeatureEncoder(5)(x)
        assert torch.equal(features.pooled[:, :count] > 0, data.shown[name])
        rest = features.tokens[..., count:][features.mask]
        assert abs(rest.mean()) < 0.15
        assert 0.85 < rest.std() < 1.15


def test_half_of_the_real_tokens_tell():
    x = make_synthetic("synergy", 400, modalities={"a": 7, "b": 2}).batch.inputs["a"]

    tells = x.values[..., 0].abs().sum(dim=1)
    lengths = x.mask.sum(dim=1)

    assert torch.equal(tells, ((lengths + 1) // 2).float())
    assert lengths.unique().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (x.mask[:, 1:] <= x.mask[:, :-1]).all()  # padding stands at the end


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        (0.3, [0.7, 0.7, 0.7]),
        ({"b": 0.9}, [1.0, 0.1, 1.0]),
        ([(), ("a",), ("a", "c"), ("a", "b", "c")], [0.25, 0.75, 0.5]),
    ],
)
def test_modalities_are_absent_as_asked(absent, expected):
    data = make_synthetic("redundancy", 20_000, absent=absent)

    shares = [data.batch.inputs[name].present.float().mean().item() for name in NAMES]

    assert shares == pytest.approx(expected, abs=0.015)


def test_the_bound_for_the_samples_as_they_are_is_a_mean_over_their_patterns():
    data = make_synthetic("synergy", 3000, absent={"b": 0.4}, flip=0.1)

    share = data.batch.inputs["b"].present.float().mean().item()

    assert data.bayes_accuracy() == pytest.approx(share * 0.9 + (1 - share) * 0.5)
    assert data.bayes_log_loss() == pytest.approx(share * entropy(0.1) + (1 - share) * math.log(2))


def test_a_seed_gives_the_same_samples_and_another_one_others():
    first, again, other = (make_synthetic("mixed", 50, absent=0.2, seed=seed).batch for seed in (1, 1, 2))

    assert torch.equal(first.inputs["a"].values, again.inputs["a"].values)
    assert not torch.equal(first.inputs["a"].values, other.inputs["a"].values)


def test_batches_hold_every_sample_once_and_in_order():
    data = make_synthetic("uniqueness", 25, modalities={"a": 4, "b": 1})

    batches = list(data.batches(10))

    assert [len(b.targets["label"].values) for b in batches] == [10, 10, 5]
    assert torch.equal(torch.cat([b.inputs["a"].mask for b in batches]), data.batch.inputs["a"].mask)
    assert torch.equal(torch.cat([b.targets["label"].values for b in batches]), data.batch.targets["label"].values)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_takes_any_number_of_modalities(count):
    for kind in KINDS:
        data = make_synthetic(kind, 30, modalities=[f"m{i}" for i in range(count)], flip=0.1)
        assert len(data.batch.inputs) == count
        assert data.batch.targets["label"].values.max() < data.num_classes
        assert data.bayes_accuracy(data.dims) >= data.bayes_accuracy([]) == pytest.approx(1 / data.num_classes)


def log_loss_after_training(fusion: nn.Module, train: Synthetic, test: Synthetic, *, steps: int) -> float:
    """What a model with this fusion and a linear head comes to on new samples."""
    encoders = {name: FeatureEncoder(width) for name, width in train.dims.items()}
    model = MultimodalModel(encoders, fusion, {"label": Classification(16, train.num_classes)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    batches = itertools.islice(itertools.cycle(train.batches(256)), steps)
    for batch in batches:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    with torch.no_grad():
        return loss_of(model.eval(), test.batch).item()


def loss_of(model: MultimodalModel, batch: Batch) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch).predictions["label"], batch.targets["label"].values)


SEQUENCES = {"a": 1, "b": 5, "c": 3}


@pytest.mark.parametrize(("method", "modalities"), [(Concat, NAMES), (Concat, SEQUENCES), (CrossAttention, SEQUENCES)])
def test_methods_that_multiply_reach_the_bound_on_synergy(method, modalities):
    torch.manual_seed(0)
    train, test = (make_synthetic("synergy", n, modalities=modalities, dim=4, flip=0.05, seed=n) for n in (8192, 4000))

    loss = log_loss_after_training(method(train.dims, 16), train, test, steps=250)

    assert loss < test.bayes_log_loss(NAMES) + 0.03


@pytest.mark.parametrize("method", [WeightedAverage, LateFusion])
def test_methods_that_add_stay_at_chance_on_synergy(method):
    torch.manual_seed(0)
    train, test = (make_synthetic("synergy", n, dim=4, flip=0.05, seed=n) for n in (8192, 4000))

    loss = log_loss_after_training(method(train.dims, 16), train, test, steps=300)

    assert loss > math.log(2) - 0.005


def test_methods_that_add_reach_the_bound_where_modalities_answer_alone():
    torch.manual_seed(0)
    train, test = (make_synthetic("redundancy", n, dim=4, seed=n) for n in (8192, 4000))

    loss = log_loss_after_training(WeightedAverage(train.dims, 16), train, test, steps=200)

    assert loss == pytest.approx(test.bayes_log_loss(NAMES), abs=0.03)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "synergi"}, r"make_synthetic got kind='synergi'. Expected one of .* Did you mean 'synergy'"),
        ({"flip": 0.7}, "make_synthetic got flip=0.7. Expected from 0 to 0.5"),
        ({"kind": "mixed", "dim": 2}, "make_synthetic got dim=2. Expected at least 3, one coordinate for each bit"),
        ({"modalities": ()}, "make_synthetic got no modalities. Expected one or more"),
        ({"modalities": {"a": 0}}, r"make_synthetic\(modalities=...\) got a=0. Expected a number above 0"),
        ({"modalities": ("values",)}, "A modality cannot be named 'values'"),
        ({"samples": 0}, "make_synthetic got samples=0"),
        ({"absent": ("a",)}, r"make_synthetic got absent=\('a',\). Expected a probability, or sets of names"),
        ({"absent": []}, "Expected a probability, or sets of names"),
        ({"absent": [("d",)]}, "unknown modality 'd'"),
        ({"absent": {"d": 0.1}}, "unknown modality 'd'"),
        ({"absent": 1.5}, "make_synthetic got absent=1.5. Expected probabilities from 0 to 1"),
    ],
)
def test_what_cannot_be_made_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_synthetic(**{"kind": "synergy", "samples": 5, **options})


@pytest.mark.plain
def test_an_unknown_modality_has_no_bound():
    with pytest.raises(ValueError, match="Synthetic: unknown modality 'd'"):
        make_synthetic("synergy", 5).bayes_accuracy(["d"])
