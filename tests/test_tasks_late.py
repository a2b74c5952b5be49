"""The tasks that belong to late decisions: every modality answers alone as well."""

import math

import numpy as np
import pytest
import torch
from tiny_data import make_model, write_rows
from torch.distributions import Dirichlet, kl_divergence

import mmfuse
from mmfuse import Features, dims_of
from mmfuse.data import load_batches, read_table
from mmfuse.evaluation import evaluate, predict
from mmfuse.fusion.evidential import EvidentialFusion
from mmfuse.fusion.late import LateFusion
from mmfuse.losses import task_losses
from mmfuse.tasks import Classification, EachModality, EvidentialClassification, MultiLabel, Regression
from mmfuse.training import fit

NAMES = ["text", "audio"]


def tokens_of_two(seed=0, dim=4):
    """Four samples: both modalities, only audio, only text, none. Sorted names: audio, text."""
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randn(4, 2, dim, generator=g, dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    return Features(tokens.masked_fill(~mask[..., None], float("nan")), mask, torch.randn(4, dim, dtype=torch.float64))


CASES = {
    "classification": (lambda: Classification(4, 3), torch.tensor([0, 2, 1, 1])),
    "multilabel": (lambda: MultiLabel(4, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])),
    "one label": (lambda: MultiLabel(4, 1), torch.tensor([[1.0], [0.0], [1.0], [0.0]])),
    "regression": (lambda: Regression(4, mean=2.0, std=3.0), torch.tensor([1.0, 0.0, -2.0, 5.0])),
}


@pytest.mark.parametrize(("make", "target"), CASES.values(), ids=CASES)
def test_the_loss_is_that_of_the_fused_and_the_mean_of_those_present(make, target):
    torch.manual_seed(0)
    inner, features = make().double(), tokens_of_two()
    task = EachModality(inner, NAMES, weight=0.7)
    target = target.double() if target.is_floating_point() else target

    prediction = task(features)
    loss = task.loss(prediction, target)
    loss.sum().backward()

    def alone(vector, i):
        return inner.loss(inner(Features.from_pooled(vector[None], torch.tensor([True]))), target[i : i + 1])[0]

    for i in range(4):
        expected = alone(features.pooled[i], i)
        own = [alone(features.tokens[i, m], i) for m in range(2) if features.mask[i, m]]
        if own:
            expected = expected + 0.7 * sum(own) / len(own)
        torch.testing.assert_close(loss[i], expected, rtol=0, atol=1e-12)
    assert all(parameter.grad.isfinite().all() for parameter in task.parameters())


@pytest.mark.parametrize(("make", "target"), CASES.values(), ids=CASES)
def test_answers_are_those_of_the_wrapped_task(make, target):
    torch.manual_seed(0)
    inner, features = make().double(), tokens_of_two()
    task = EachModality(inner, {"text": 4, "audio": 4})

    prediction = task(features)
    decoded = task.decode(prediction)

    assert prediction.shape[:3] == (4, 2, 3)
    assert torch.equal(decoded, inner.decode(inner(features)))
    assert list(task.decode_each(prediction)) == ["audio", "text"]
    torch.testing.assert_close(
        task.decode_each(prediction)["text"][0], inner.decode(inner(one(features.tokens[0, 1])))[0]
    )
    there = prediction[:, 1, 1:].flatten(2)[..., 0] if prediction.dim() > 3 else prediction[:, 1, 1:]
    assert torch.equal(there.bool(), features.mask)
    numbers, labels = decoded.detach().numpy(), target.numpy()
    assert task.metrics(numbers, labels) == inner.metrics(numbers, labels)
    assert task.report(numbers, labels) == inner.report(numbers, labels)
    assert task.answer(numbers[0]) == inner.answer(numbers[0])
    assert torch.equal(task.blank(), inner.blank())
    assert (task.metric_names, task.lower_is_better) == (inner.metric_names, inner.lower_is_better)
    assert hasattr(task, "classes") == hasattr(inner, "classes")


def one(vector):
    return Features.from_pooled(vector[None], torch.tensor([True]))


def test_labels_of_cells_are_those_of_the_wrapped_task():
    assert EachModality(Classification(4, ["a", "b"]), NAMES).encode("b").item() == 1
    assert EachModality(Classification(4, ["a", "b"]), NAMES).classes == ["a", "b"]


def test_evidential_loss_equals_its_equation():
    task = EvidentialClassification(3, annealing=8).double().train()  # exact in binary
    g = torch.Generator().manual_seed(0)
    evidence = torch.rand(4, 2, 3, generator=g, dtype=torch.float64) * 5
    mask = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    pooled = torch.rand(4, 3, generator=g, dtype=torch.float64) * 90 * mask.any(dim=1, keepdim=True)
    target = torch.tensor([0, 2, 1, 1])

    for _ in range(4):
        prediction = task(Features(evidence, mask, pooled))
    losses = task.loss(prediction, target)

    for i in range(4):
        expected = 0.0
        for e in [pooled[i], *(evidence[i, m] for m in range(2) if mask[i, m])]:
            alpha, y = e + 1, int(target[i])
            wrong = alpha.clone()
            wrong[y] = 1.0
            expected += torch.digamma(alpha.sum()) - torch.digamma(alpha[y])
            expected += 0.5 * kl_divergence(Dirichlet(wrong), Dirichlet(torch.ones_like(wrong)))
        torch.testing.assert_close(losses[i], expected, rtol=0, atol=1e-11)


def test_the_digamma_form_is_the_expected_cross_entropy():
    torch.manual_seed(0)
    evidence = torch.tensor([[3.0, 0.5, 1.0]])
    features = Features(torch.zeros(1, 1, 3), torch.tensor([[True]]), evidence)
    task = EvidentialClassification(3, annealing=10**9).train()

    loss = task.loss(task(features), torch.tensor([0]))

    drawn = Dirichlet(evidence[0] + 1).sample((200_000,))
    assert loss.item() == pytest.approx(-drawn[:, 0].log().mean().item(), abs=0.01)


@pytest.mark.parametrize("large", [1e4, 1e9, 1e30])
def test_the_divergence_stays_right_where_evidence_is_large(large):
    evidence = torch.tensor([[0.0, large, 0.0]])
    features = Features(torch.zeros(1, 1, 3), torch.tensor([[True]]), evidence)
    task = EvidentialClassification(3).eval()

    loss = task.loss(task(features), torch.tensor([0]))

    a = large + 1  # KL of Dirichlet(1, a, 1) from the uniform one, with Gamma(a + 2) = a (a + 1) Gamma(a)
    psi = math.log(a + 2) - 0.5 / (a + 2)
    divergence = math.log(a) + math.log(a + 1) - math.log(2) + (a - 1) * -(1 / a + 1 / (a + 1))
    assert loss.item() == pytest.approx(divergence + psi + 0.5772156649, rel=1e-3)


def test_steps_count_in_training_only_and_evaluation_counts_in_full():
    task = EvidentialClassification(3, annealing=4)
    x = Features(torch.ones(2, 1, 3), torch.ones(2, 1, dtype=torch.bool), torch.ones(2, 3))

    weights = [task(x)[0, 0, -1].item() for _ in range(6)]
    state = task.state_dict()
    task.eval()

    assert weights == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert state["step"].item() == 6
    fresh = EvidentialClassification(3, annealing=4).eval()
    assert fresh(x)[0, 0, -1].item() == 1.0
    assert fresh.step.item() == 0
    fresh.load_state_dict(state)
    assert fresh.step.item() == 6


def test_what_is_not_known_is_told():
    evidence = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    features = Features(evidence, torch.tensor([[True, False]]), torch.tensor([[9.0, 0.0, 0.0]]))
    task = EvidentialClassification(["a", "b", "c"]).eval()

    prediction = task(features)

    assert task.uncertainty(prediction).tolist() == [[0.25, 0.25, 1.0]]
    torch.testing.assert_close(task.decode(prediction), torch.tensor([[10 / 12, 1 / 12, 1 / 12]]))
    assert task.answer(task.decode(prediction)[0].numpy())[""] == "a"


def test_evidential_metrics_and_labels_are_those_of_classification():
    evidential, plain = EvidentialClassification(["a", "b", "c"]), Classification(4, ["a", "b", "c"])
    p, labels = np.random.default_rng(0).dirichlet([1, 1, 1], 30), np.random.default_rng(1).integers(0, 3, 30)

    assert evidential.metrics(p, labels) == plain.metrics(p, labels)
    assert evidential.report(p, labels) == plain.report(p, labels)
    assert evidential.answer(p[0]) == plain.answer(p[0])
    assert evidential.metric_names == plain.metric_names
    assert evidential.encode("b") == plain.encode("b")
    assert torch.equal(evidential.blank(), plain.blank())
    assert list(evidential.parameters()) == []


def late_model():
    model = make_model()
    dims = dims_of(model.encoders)
    model.fusion = LateFusion(dims, 16, combine="weighted")
    tasks = {"kind": Classification(16, ["kind0", "kind1", "kind2"]), "size": Regression(16, mean=15.0, std=8.0)}
    model.tasks = torch.nn.ModuleDict({name: EachModality(task, dims, weight=0.5) for name, task in tasks.items()})
    return model


def evidential_model():
    model = make_model()
    model.fusion = EvidentialFusion(dims_of(model.encoders), 3)
    model.tasks = torch.nn.ModuleDict({"kind": EvidentialClassification(["kind0", "kind1", "kind2"], annealing=20)})
    return model


@pytest.mark.parametrize("make", [late_model, evidential_model])
def test_a_model_is_fitted_evaluated_saved_and_loaded(tmp_path, make):
    table, model = read_table(write_rows(tmp_path, rows=24)), make()
    before = evaluate(model, load_batches(table, model)).numbers["loss"]

    batches = load_batches(table, model, train=True)
    history = fit(model, batches, load_batches(table, model), epochs=8, learning_rate=3e-3, progress=False)
    mmfuse.save(model, tmp_path / "model")
    loaded = mmfuse.load(tmp_path / "model", classes={"LateFusion": LateFusion, "EvidentialFusion": EvidentialFusion})

    report = evaluate(loaded, load_batches(table, loaded))
    assert len(history.epochs) == 8
    assert report.numbers["loss"] < 0.85 * before
    assert report.numbers["kind/accuracy"] > 0.6
    assert sum(report.weights.values()) == pytest.approx(1)
    rows = predict(loaded, load_batches(table, loaded))
    assert rows == predict(model, load_batches(table, model))
    assert {row["kind_predicted"] for row in rows} <= {"kind0", "kind1", "kind2"}
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    if make is evidential_model:
        assert loaded.tasks["kind"].step.item() == len(batches) * history.best_epoch


@pytest.mark.plain
@pytest.mark.parametrize("make", [late_model, evidential_model])
def test_a_whole_model_compiles_in_one_graph_and_every_parameter_learns(tmp_path, make):
    table, model = read_table(write_rows(tmp_path)), make()
    batch = next(iter(load_batches(table, model)))

    compiled = torch.compile(model, fullgraph=True, backend="eager")
    output = compiled(batch)
    sum(task_losses(model.tasks, output, batch.targets).values()).backward()

    assert all(p.grad is not None and p.grad.any() for p in [*model.fusion.parameters(), *model.tasks.parameters()])


@pytest.mark.plain
@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: EachModality(Regression(4), "text"), "EachModality got modalities='text'. Expected different names"),
        (lambda: EachModality(Regression(4), []), r"EachModality got modalities=\[\]. .*Give the dims"),
        (lambda: EachModality(Regression(4), ["a", "a"]), "Expected different names, one or more"),
        (lambda: EachModality(Regression(4), NAMES, weight=0), "EachModality got weight=0. Expected a number above 0"),
        (
            lambda: EachModality(Regression(4), NAMES)(one(torch.ones(4))),
            r"got 1 tokens. Expected 2, one for each of \['audio', 'text'\]. Use LateFusion or another",
        ),
        (lambda: EvidentialClassification(1), "EvidentialClassification got classes=1. Expected a number or a list"),
        (lambda: EvidentialClassification(3, annealing=0), "EvidentialClassification got annealing=0"),
        (
            lambda: EvidentialClassification(3)(one(torch.ones(4))),
            r"got evidence for 4 classes. Expected 3, one for each of its own. Use EvidentialFusion\(dims, 3\)",
        ),
    ],
)
def test_mistakes_are_answered(act, message):
    with pytest.raises(ValueError, match=message):
        act()
