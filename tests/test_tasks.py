"""Tasks and losses: against equations, loops and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from mmfuse import Features, Fused, Output, Target
from mmfuse.losses import GivenWeights, Sum, UncertaintyWeighting, known_counts, task_losses
from mmfuse.tasks import Classification, MultiLabel, Regression


def pooled(rows, dim=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Features.from_pooled(torch.randn(rows, dim, generator=g), torch.ones(rows, dtype=torch.bool))


def output_of(predictions):
    return Output({}, Fused(pooled(1)), predictions)


def test_classification_equals_its_equations():
    torch.manual_seed(0)
    task = Classification(4, ["a", "b", "c"]).double()
    features = Features.from_pooled(pooled(5).pooled.double(), torch.ones(5, dtype=torch.bool))
    target = torch.tensor([0, 2, 1, 1, 0])

    logits = task(features).detach()
    losses, probabilities = task.loss(logits, target), task.decode(logits)

    for i in range(5):
        scores = [
            math.exp((task.classify.weight[c] @ features.pooled[i] + task.classify.bias[c]).item()) for c in range(3)
        ]
        assert losses[i].item() == pytest.approx(-math.log(scores[target[i]] / sum(scores)), abs=1e-12)
        assert probabilities[i].tolist() == pytest.approx([score / sum(scores) for score in scores], abs=1e-12)


def test_multilabel_equals_its_equations():
    task = MultiLabel(4, ["a", "b", "c"])
    logits = torch.tensor([[0.5, -1.0, 3.0]], dtype=torch.float64)
    target = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)

    p = [1 / (1 + math.exp(-x)) for x in logits[0].tolist()]
    expected = -(math.log(p[0]) + math.log(1 - p[1]) + math.log(1 - p[2])) / 3

    assert task.loss(logits, target).item() == pytest.approx(expected, abs=1e-12)
    assert task.decode(logits)[0].tolist() == pytest.approx(p, abs=1e-12)


def test_regression_learns_in_units_of_the_spread_and_answers_in_its_own():
    task = Regression(4, mean=50.0, std=10.0)

    values = torch.tensor([0.5, -2.0])

    assert task.decode(values).tolist() == [55.0, 30.0]
    assert task.loss(values, torch.tensor([60.0, 30.0])).tolist() == [0.25, 0.0]
    assert task(pooled(3)).shape == (3,)


def test_labels_become_tensors_and_answers_become_cells():
    kinds, tags, size = Classification(4, ["cat", "dog"]), MultiLabel(4, ["x", "y"]), Regression(4)

    assert kinds.encode("dog").item() == 1
    assert tags.encode("y | x").tolist() == [1.0, 1.0]
    assert tags.encode("|").tolist() == [0.0, 0.0]
    assert tags.encode(["y"]).tolist() == [0.0, 1.0]
    assert size.encode("3.5").item() == 3.5
    assert kinds.answer(np.array([0.25, 0.75])) == {"": "dog", "probability": 0.75, "p(cat)": 0.25, "p(dog)": 0.75}
    assert tags.answer(np.array([0.75, 0.6]))[""] == "x|y"
    assert tags.answer(np.array([0.1, 0.2]))[""] == "|"
    assert size.answer(np.array(2.0)) == {"": 2.0}
    assert Classification(4, 3).classes == ["0", "1", "2"]


def test_metrics_are_those_of_scikit_learn_or_a_slow_loop():
    random = np.random.default_rng(0)
    p, labels = random.random((50, 3)), random.integers(0, 3, 50)
    several, truth = random.random((50, 3)), random.integers(0, 2, (50, 3)).astype(float)
    numbers, values = random.random(50), random.random(50)

    found = Classification(4, 3).metrics(p, labels)
    right = [p[i].argmax() == labels[i] for i in range(50)]
    recalls = [np.mean([right[i] for i in range(50) if labels[i] == c]) for c in range(3)]
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["mcc"] == pytest.approx(matthews_correlation(labels, p.argmax(axis=1), 3))
    assert found["auroc"] == pytest.approx(np.mean([share_in_order(p[:, c], labels == c) for c in range(3)]))
    found = MultiLabel(4, 3).metrics(several, truth)
    assert found["micro_f1"] == pytest.approx(f1_score(truth.ravel(), several.ravel() > 0.5))
    assert found["exact_match"] == pytest.approx(np.mean([((several[i] > 0.5) == truth[i]).all() for i in range(50)]))
    found = Regression(4).metrics(numbers, values)
    assert found["mae"] == pytest.approx(np.mean([abs(a - b) for a, b in zip(numbers, values, strict=True)]))
    squares = [(a - b) ** 2 for a, b in zip(numbers, values, strict=True)]
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(squares)))
    for task, args in (
        (Classification(4, 3), (p, labels)),
        (MultiLabel(4, 3), (several, truth)),
        (Regression(4), (numbers, values)),
    ):
        assert set(task.metrics(*args)) == set(task.metric_names) >= task.lower_is_better
        assert task.report(*args).strip()


def matthews_correlation(truth, chosen, classes):
    """Gorodkin (2004), from the sums over pairs of samples: the correlation of two indicators of classes."""
    x, y = (np.eye(classes)[numbers] - np.eye(classes)[numbers].mean(axis=0) for numbers in (truth, chosen))
    return (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())


def share_in_order(score, positive):
    """Share of the pairs of a positive and a negative sample whose scores are in that order; ties count half."""
    pairs = score[positive][:, None] - score[~positive]
    return np.mean((pairs > 0) + 0.5 * (pairs == 0))


def test_two_classes_are_ranked_by_the_second_of_them():
    p, labels = np.array([0.1, 0.4, 0.4, 0.9, 0.3]), np.array([0, 1, 0, 1, 1])

    found = Classification(4, 2).metrics(np.stack([1 - p, p], axis=1), labels)

    assert found["auroc"] == pytest.approx(share_in_order(p, labels == 1)) == pytest.approx(4.5 / 6)
    assert found["mcc"] == pytest.approx(matthews_correlation(labels, (p > 0.5).astype(int), 2))


@pytest.mark.parametrize(("labels", "mcc"), [([0, 0, 0], math.nan), ([2], math.nan), ([0, 2, 2], 0.0)])
def test_ranks_are_not_defined_without_every_class_and_nothing_correlates_with_one_class(labels, mcc):
    p = np.eye(3)[[0] * len(labels)] * 0.7 + 0.1

    found = Classification(4, 3).metrics(p, np.array(labels))

    assert math.isnan(found["auroc"])
    assert found["mcc"] == pytest.approx(mcc, nan_ok=True)


def test_one_class_of_a_multilabel_is_scored_as_itself():
    p, truth = np.array([[0.1], [0.9], [0.8], [0.2]]), np.array([[1.0], [1.0], [0.0], [0.0]])
    task = MultiLabel(4, ["x"])

    found = task.metrics(p, truth)

    assert found["micro_f1"] == found["macro_f1"] == pytest.approx(f1_score(truth.ravel(), p.ravel() > 0.5))
    assert task.report(p, truth).split("x")[1].split()[:4] == ["0.50", "0.50", "0.50", "2"]


def test_a_class_that_does_not_occur_does_not_spoil_the_metrics():
    p = np.eye(4)[[0, 1, 1]]

    found = Classification(4, 4).metrics(p, np.array([0, 1, 0]))

    assert found["balanced_accuracy"] == pytest.approx(0.75)
    assert "accuracy" in Classification(4, 4).report(p, np.array([0, 1, 0]))
    assert math.isnan(Regression(4).metrics(np.ones(1), np.ones(1))["r2"])


def test_the_loss_of_a_task_is_the_mean_over_its_known_labels():
    tasks = {"kind": Classification(4, 3), "size": Regression(4)}
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=g, requires_grad=True)
    values = torch.randn(4, generator=g, requires_grad=True)
    nan = float("nan")
    targets = {
        "kind": Target(torch.tensor([0, 99, 2, -1]), torch.tensor([True, False, True, False])),
        "size": Target(torch.tensor([nan, nan, nan, nan]), torch.zeros(4, dtype=torch.bool)),
    }

    losses = task_losses(tasks, output_of({"kind": logits, "size": values}), targets)
    sum(losses.values()).backward()

    each = -logits.log_softmax(dim=1)
    torch.testing.assert_close(losses["kind"], (each[0, 0] + each[2, 2]) / 2)
    assert losses["size"].item() == 0.0
    assert values.grad.tolist() == [0.0] * 4
    assert logits.grad[1].tolist() == logits.grad[3].tolist() == [0.0] * 3


def test_given_counts_replace_the_own_ones():
    tasks = {"size": Regression(4)}
    targets = {"size": Target(torch.zeros(4), torch.tensor([True, True, False, False]))}
    output = output_of({"size": torch.full((4,), 2.0)})

    assert task_losses(tasks, output, targets, {"size": 8.0})["size"].item() == 1.0
    assert task_losses(tasks, output, targets, {"size": 0}) == {}
    assert known_counts([]) == {}


@pytest.mark.parametrize(
    "tasks", [{"kind": Classification(4, 3)}, {"kind": Classification(4, 3), "size": Regression(4)}]
)
def test_labels_that_are_all_known_need_no_mask_to_the_same_bits(tasks):
    g = torch.Generator().manual_seed(0)
    logits, values = (torch.randn(*shape, generator=g, requires_grad=True) for shape in ((6, 3), (6,)))
    known = torch.ones(6, dtype=torch.bool)
    targets = {"kind": Target(torch.arange(6) % 3, known), "size": Target(torch.randn(6, generator=g), known)}
    found = []
    for complete in ((), ("kind", "size")):
        logits.grad = values.grad = None
        output = output_of({"kind": logits, "size": values})
        losses = task_losses(tasks, output, {name: targets[name] for name in tasks}, complete=complete)
        Sum()(losses).backward()
        found.append([*losses.values(), logits.grad, *([] if values.grad is None else [values.grad])])

    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_weightings_equal_their_equations():
    losses = {"a": torch.tensor(2.0, dtype=torch.float64), "b": torch.tensor(0.5, dtype=torch.float64)}
    weigh = UncertaintyWeighting(["a", "b"]).double()
    with torch.no_grad():
        weigh.log_variance["a"].fill_(0.3)
        weigh.log_variance["b"].fill_(-1.0)

    assert Sum()(losses).item() == 2.5
    assert GivenWeights({"a": 3.0, "b": 2.0})(losses).item() == 7.0
    expected = math.exp(-0.3) * 2.0 + 0.15 + math.exp(1.0) * 0.5 - 0.5
    assert weigh(losses).item() == pytest.approx(expected, abs=1e-12)
    assert weigh({"b": losses["b"]}).item() == pytest.approx(math.exp(1.0) * 0.5 - 0.5, abs=1e-12)


def test_learned_weights_settle_at_the_logarithm_of_twice_the_loss():
    weigh = UncertaintyWeighting(["a"]).double()
    optimizer = torch.optim.LBFGS(weigh.parameters(), max_iter=100, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = weigh({"a": torch.tensor(3.0, dtype=torch.float64)})
        loss.backward()
        return loss

    optimizer.step(closure)

    assert weigh.log_variance["a"].item() == pytest.approx(math.log(6.0), abs=1e-3)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Classification(4, 1), "Classification got classes=1. Expected a number or a list of 2 or more"),
        (lambda: Classification(4, ["a", "a"]), "Expected a number or a list of 2 or more different names. Read them"),
        (lambda: Classification(4, "ab"), "Classification got classes='ab'"),
        (lambda: Classification(0, 2), "Classification got dim=0. Expected a number above 0"),
        (lambda: Classification(4, ["cat", "dog"]).encode("dgo"), "label 'dgo' is not a class.* Did you mean 'dog'"),
        (lambda: MultiLabel(4, ["x"]).encode("x|z"), "label 'z' is not a class. Expected one of the 1 classes"),
        (lambda: Regression(4, std=0.0), "Regression got std=0.0. Expected a number above 0"),
        (lambda: Regression(4).encode("tall"), "label 'tall' is not a finite number. Expected one such as 3.5"),
        (lambda: Regression(4).encode("inf"), "label 'inf' is not a finite number"),
        (lambda: GivenWeights({"a": -1.0}), "GivenWeights got a=-1.0"),
        (lambda: GivenWeights({"a": 1.0})({"b": torch.ones(())}), "GivenWeights: unknown task 'b'"),
        (lambda: UncertaintyWeighting(["a"])({"b": torch.ones(())}), "UncertaintyWeighting: unknown task 'b'"),
        (lambda: task_losses({"a": Regression(4)}, None, {"b": None}), "Batch.targets: unknown task 'b'"),
    ],
)
def test_mistakes_are_answered(act, message):
    with pytest.raises(ValueError, match=message):
        act()
