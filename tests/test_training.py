"""The loop, ``fit`` and what stands beside them."""

import copy
import json
import math

import pytest
import torch
from tiny_data import make_model, write_rows
from torch import nn

from mmfuse import Batch, Features, Fused, Input, MultimodalModel, Target
from mmfuse.data import load_batches, read_table
from mmfuse.evaluation import evaluate, predict
from mmfuse.fusion import Concat
from mmfuse.losses import GivenWeights, Sum, UncertaintyWeighting
from mmfuse.tasks import Classification, Regression
from mmfuse.training import (
    Checkpoints,
    CorruptCheckpointError,
    History,
    NonFiniteError,
    Precision,
    check_partition,
    fit,
    make_optimizer,
    parameter_groups,
    train_epoch,
    warmup_cosine,
)

DIMS = {"left": 5, "right": 4}


class Vector(nn.Module):
    """The simplest encoder: a linear layer on a vector."""

    def __init__(self, dim, width=8):
        super().__init__()
        self.dim = width
        self.layer = nn.Linear(dim, width)

    def forward(self, input):
        return Features.from_pooled(self.layer(input.zeroed().values), input.present)


def model_of_vectors(seed=0):
    torch.manual_seed(seed)
    encoders = {name: Vector(dim) for name, dim in DIMS.items()}
    tasks = {"sort": Classification(8, 3), "size": Regression(8)}
    return MultimodalModel(encoders, Concat({"left": 8, "right": 8}, 8), tasks)


def random_batch(size, seed=0, known=0.7):
    """Learnable: the class is the largest of the first three numbers, the size the sum of the others."""
    g = torch.Generator().manual_seed(seed)
    left, right = torch.randn(size, 5, generator=g), torch.randn(size, 4, generator=g)
    inputs = {
        "left": Input(left, torch.rand(size, generator=g) < 0.9),
        "right": Input(right, torch.rand(size, generator=g) < 0.9),
    }
    targets = {
        "sort": Target(left[:, :3].argmax(dim=1), torch.rand(size, generator=g) < known),
        "size": Target(right.sum(dim=1), torch.rand(size, generator=g) < known),
    }
    return Batch(inputs, targets)


def cut(batch, sizes):
    """One batch as several."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [
        Batch(
            {n: Input(x.values[r], x.present[r]) for n, x in batch.inputs.items()},
            {n: Target(x.values[r], x.known[r]) for n, x in batch.targets.items()},
        )
        for r in rows
    ]


def train(model, batches, weigh=None, **options):
    weigh = weigh or Sum()
    optimizer = make_optimizer(parameter_groups(model, weigh))
    return list(train_epoch(model, batches, weigh=weigh, optimizer=optimizer, **options))


@pytest.mark.parametrize(
    "weigh", [Sum, lambda: GivenWeights({"sort": 2.0, "size": 0.5}), lambda: UncertaintyWeighting(["sort", "size"])]
)
@pytest.mark.parametrize("sizes", [[6, 6], [1, 4, 7], [3, 3, 3, 3]])
def test_accumulation_equals_one_large_batch(weigh, sizes):
    torch.manual_seed(0)
    whole = random_batch(12, known=0.4)
    whole = Batch({n: Input(x.values.double(), x.present) for n, x in whole.inputs.items()}, whole.targets)
    grads = []
    for batches in ([whole], cut(whole, sizes)):
        model, weighting = model_of_vectors().double(), weigh().double()
        optimizer = torch.optim.SGD([*model.parameters(), *weighting.parameters()], lr=0.0)
        (losses,) = train_epoch(model, batches, weigh=weighting, optimizer=optimizer, accumulate=len(batches))
        grads.append([*losses.values(), *(p.grad for p in [*model.parameters(), *weighting.parameters()])])

    for one, many in zip(*grads, strict=True):
        torch.testing.assert_close(many, one, rtol=0, atol=1e-14)


def test_the_last_window_is_divided_by_what_it_holds():
    batches = cut(random_batch(10), [2, 2, 2, 2, 2])
    model = model_of_vectors()

    steps = train(model, batches, accumulate=4)
    alone = train(model_of_vectors(), [batches[-1]])

    assert len(steps) == 2
    grads = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in grads)
    assert steps[1].keys() == alone[0].keys()


def test_a_task_without_a_known_label_has_no_part():
    batch = random_batch(6)
    unknown = Target(torch.full((6,), float("nan")), torch.zeros(6, dtype=torch.bool))
    batch = Batch(batch.inputs, {**batch.targets, "size": unknown})
    weigh = UncertaintyWeighting(["sort", "size"])

    model = model_of_vectors()
    (losses,) = train(model, [batch], weigh)

    assert list(losses) == ["sort"]
    assert weigh.log_variance["size"].item() == 0.0
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_batch_without_any_label_changes_nothing_but_does_not_stop():
    batch = random_batch(4, known=0.0)
    model = model_of_vectors()
    before = copy.deepcopy(model.state_dict())

    steps = list(train_epoch(model, [batch], weigh=Sum(), optimizer=torch.optim.SGD(model.parameters(), lr=1.0)))

    assert steps == [{}]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_batch_without_the_labels_of_a_task_counts_as_one_where_none_is_known():
    one, other = cut(random_batch(10), [6, 4])
    lacking = Batch(other.inputs, {"sort": other.targets["sort"]})
    unknown = Target(torch.full((4,), 99.0), torch.zeros(4, dtype=torch.bool))
    grads = []
    for batch in (lacking, Batch(other.inputs, {**lacking.targets, "size": unknown})):
        model, weigh = model_of_vectors(), UncertaintyWeighting(["sort", "size"])
        optimizer = torch.optim.SGD([*model.parameters(), *weigh.parameters()], lr=0.0)
        list(train_epoch(model, [one, batch], weigh=weigh, optimizer=optimizer, accumulate=2))
        grads.append([p.grad for p in [*model.parameters(), *weigh.parameters()]])

    for found, expected in zip(*grads, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.plain
def test_labels_of_another_shape_are_not_spread_over_the_batch():
    batch = random_batch(6)
    wrong = Target(batch.targets["size"].values[:, None], batch.targets["size"].known)

    with pytest.raises(ValueError, match=r"The loss of the task 'size' has shape \(6, 6\). Expected \(batch=6\). Its"):
        train(model_of_vectors(), [Batch(batch.inputs, {"size": wrong})])


def test_clipping_limits_the_norm_of_all_gradients_together():
    model = model_of_vectors()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    list(train_epoch(model, [random_batch(8)], weigh=Sum(), optimizer=optimizer, clip=0.01))

    norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_a_rule_of_balance_edits_the_gradients():
    model = model_of_vectors()
    seen = []

    def mute(model, outputs, batches):
        seen.append([type(part).__name__ for part in (*outputs, *batches)])
        for parameter in model.encoders["left"].parameters():
            parameter.grad.zero_()

    before = copy.deepcopy(model.encoders["left"].state_dict())
    train(model, [random_batch(8)], balance=[mute])

    assert seen == [["Output", "Batch"]]
    assert torch.allclose(model.encoders["left"].layer.bias, before["layer.bias"])


def test_a_rule_of_balance_runs_once_a_step_on_the_gradient_of_all_its_batches():
    found = []

    def double(model, outputs, batches):
        made = [output.predictions["sort"] for output in outputs]
        assert [len(prediction) for prediction in made] == [len(batch.inputs["left"].present) for batch in batches]
        for parameter in model.parameters():
            parameter.grad *= 2
        found.append([torch.cat(made), *[parameter.grad.clone() for parameter in model.parameters()]])

    train(model_of_vectors(), [random_batch(8)], balance=[double])
    train(model_of_vectors(), cut(random_batch(8), [5, 3]), balance=[double], accumulate=2)

    whole, parts = found
    torch.testing.assert_close(parts, whole)


class Poisoned(nn.Module):
    """A fusion that gives infinity from the third batch on."""

    def __init__(self, fusion):
        super().__init__()
        self.fusion = fusion
        self.calls = 0

    def forward(self, features):
        fused = self.fusion(features)
        self.calls += 1
        if self.calls < 3:
            return fused
        return Fused(Features.from_pooled(fused.features.pooled / 0.0, fused.features.present))


@pytest.mark.plain
def test_a_loss_that_is_not_finite_stops_the_run_before_it_spoils_a_weight():
    batches = cut(random_batch(12, known=1.0), [4, 4, 4])
    good = model_of_vectors()
    train(good, batches[:2])
    model = model_of_vectors()
    model.fusion = Poisoned(model.fusion)

    with pytest.raises(NonFiniteError) as caught:
        train(model, batches)

    message = str(caught.value)
    assert message.startswith("Step 3: the loss of 'sort' and 'size' is not finite.")
    assert "The first that is not finite is the output of fusion." in message
    assert "Weights and optimizer are as before this step" in message
    for (name, value), expected in zip(model.state_dict().items(), good.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


@pytest.mark.plain
def test_an_input_that_is_not_finite_is_named():
    batch = random_batch(4, known=1.0)
    values = batch.inputs["right"].values.clone()
    values[batch.inputs["right"].present.nonzero()[0], 1] = float("nan")
    spoiled = Batch({**batch.inputs, "right": Input(values, batch.inputs["right"].present)}, batch.targets)

    with pytest.raises(NonFiniteError, match="Step 1: .* The first that is not finite is the input 'right'"):
        train(model_of_vectors(), [spoiled])


@pytest.mark.plain
@pytest.mark.parametrize(("label", "where"), [(float("nan"), "the label of 'size'"), (1e30, "a loss too large")])
def test_a_label_that_makes_the_loss_not_finite_is_not_taken_for_a_gradient(label, where):
    batch = random_batch(4)
    spoiled = Target(torch.full((4,), label), torch.ones(4, dtype=torch.bool))

    with pytest.raises(NonFiniteError, match=f"Step 1: the loss of 'size' is not finite. .*{where}"):
        train(model_of_vectors(), [Batch(batch.inputs, {**batch.targets, "size": spoiled})])


@pytest.mark.plain
def test_what_is_too_large_for_the_precision_only_is_found_in_that_precision():
    batch = random_batch(4, known=1.0)
    large = Input(batch.inputs["right"].values * 1e5, torch.ones(4, dtype=torch.bool))
    precision = Precision("float32", torch.device("cpu"))
    precision.name = "fp16"

    with pytest.raises(NonFiniteError, match="The first that is not finite is the output of encoders.right.layer"):
        train(model_of_vectors(), [Batch({**batch.inputs, "right": large}, batch.targets)], precision=precision)


@pytest.mark.plain
def test_a_gradient_that_is_not_finite_is_named():
    class Root(nn.Module):
        def forward(self, losses):
            return (0.0 * losses["sort"]).sqrt()  # finite, with an infinite slope

    model = model_of_vectors()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    with pytest.raises(
        NonFiniteError, match=r"a gradient \(every loss is finite\) .* is the gradient of encoders.left"
    ):
        list(train_epoch(model, [random_batch(4, known=1.0)], weigh=Root(), optimizer=optimizer))


def test_parameter_groups_partition_what_is_trainable():
    model, weigh = make_model(), UncertaintyWeighting(["kind", "size"])
    model.encoders["text"].pretrained = True
    for parameter in model.encoders["image"].parameters():
        parameter.requires_grad_(False)

    groups = parameter_groups(model, weigh, learning_rate=1e-3, pretrained_learning_rate=2e-5, weight_decay=0.1)

    check_partition(groups, [model, weigh])
    by_name = {group["name"]: group for group in groups}
    assert set(by_name) == {"pretrained, decayed", "pretrained, not decayed", "new, decayed", "new, not decayed"}
    for name, group in by_name.items():
        assert group["lr"] == (2e-5 if name.startswith("pretrained") else 1e-3)
        assert group["weight_decay"] == (0.0 if "not decayed" in name else 0.1)
        assert all((p.dim() > 1) == ("not decayed" not in name) for p in group["params"])
    text = {id(p) for p in model.encoders["text"].backbone.parameters()}
    slow = {id(p) for name, g in by_name.items() if name.startswith("pretrained") for p in g["params"]}
    assert slow == text


@pytest.mark.plain
def test_groups_that_forget_or_repeat_a_parameter_are_refused():
    model = model_of_vectors()
    groups = parameter_groups(model)
    forgotten = [{**groups[0], "params": groups[0]["params"][1:]}, groups[1]]
    twice = [groups[0], groups[1], {**groups[0], "params": groups[0]["params"][:1]}]

    with pytest.raises(ValueError, match=r"groups forget \['encoders.left.layer.weight'\]"):
        check_partition(forgotten, [model])
    with pytest.raises(ValueError, match=r"hold \['encoders.left.layer.weight'\] twice"):
        check_partition(twice, [model])
    with pytest.raises(ValueError, match="4 that do not belong to model or weighting"):
        check_partition([*groups, {"params": [nn.Parameter(torch.zeros(2)) for _ in range(4)]}], [model])


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = warmup_cosine(optimizer, steps=100, warmup=0.1)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()

    assert rates[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.plain
def test_precision_fits_the_device():
    cpu = torch.device("cpu")

    assert Precision("auto", cpu).name == "float32"
    with Precision("bf16", cpu).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with Precision("float32", cpu).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with pytest.raises(ValueError, match="precision='fp16' does not train on a CPU. Expected float32 or bf16"):
        Precision("fp16", cpu)
    with pytest.raises(ValueError, match="precision='bf61'.* Did you mean 'bf16'"):
        Precision("bf61", cpu)


class Skips(nn.Module):
    """Stands for a scaler that has met an infinite gradient, as it does while it looks for its scale."""

    def is_enabled(self):
        return True

    def get_scale(self):
        return 65536.0

    def scale(self, loss):
        return loss

    def unscale_(self, optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.fill_(torch.inf)

    def step(self, optimizer):
        pass

    def update(self):
        pass


def test_a_scaler_may_skip_a_step_whose_gradient_is_infinite():
    model = model_of_vectors()
    before = copy.deepcopy(model.state_dict())
    precision = Precision("float32", torch.device("cpu"))
    precision.scaler = Skips()
    weigh = Sum()
    optimizer = make_optimizer(parameter_groups(model, weigh))
    schedule = warmup_cosine(optimizer, steps=4)

    steps = train_epoch(
        model, [random_batch(4)], weigh=weigh, optimizer=optimizer, precision=precision, schedule=schedule
    )

    assert len(list(steps)) == 1
    assert schedule.last_epoch == 0
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_fit_learns_and_leaves_the_best_weights():
    model = model_of_vectors()
    batches = cut(random_batch(256), [32] * 8)
    validation = [random_batch(64, seed=1)]

    history = fit(model, batches, validation, epochs=20, learning_rate=1e-2, progress=False)

    assert history["validation/sort/accuracy"][-1] > 0.7
    assert history["train/loss"][-1] < history["train/loss"][0] / 2
    losses = history["validation/loss"]
    assert history.best_epoch == losses.index(min(losses)) + 1
    from mmfuse.evaluation import evaluate

    assert evaluate(model, validation).numbers["loss"] == pytest.approx(min(losses), abs=1e-9)


def test_the_same_seed_gives_the_same_weights():
    runs = []
    for _ in range(2):
        model = model_of_vectors()
        fit(model, cut(random_batch(64), [16] * 4), epochs=2, seed=3, progress=False)
        runs.append(model.state_dict())

    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name])


@pytest.mark.parametrize("slow", ["left", "right"])
def test_the_rate_of_the_history_is_that_of_the_new_parameters(slow):
    model = model_of_vectors()
    model.encoders[slow].pretrained = True

    history = fit(model, [random_batch(8)], epochs=1, learning_rate=0.01, warmup=0.0, progress=False)

    assert history["learning_rate"] == [0.01]


class Interrupted(Exception):
    """Somebody pulled the plug."""


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, precision):  # noqa: C901
    table = read_table(write_rows(tmp_path))
    options = {"epochs": 4, "progress": False, "precision": precision, "accumulate": 2, "seed": 7}

    def run(folder, stop_in=None, **more):
        model, weigh = make_model(), UncertaintyWeighting(["kind", "size"])
        batches = load_batches(table, model, train=True, batch_size=4, seed=2)
        if stop_in is not None:
            batches = Stopping(batches, stop_in)
        history = fit(
            model, batches, load_batches(table, model), weigh=weigh, folder=tmp_path / folder, **options, **more
        )
        return model, weigh, history

    class Stopping:
        def __init__(self, batches, epoch):
            self.batches, self.at, self.dataset = batches, epoch, batches.dataset

        epoch = property(lambda self: self.batches.epoch, lambda self, epoch: setattr(self.batches, "epoch", epoch))

        def __len__(self):
            return len(self.batches)

        def __iter__(self):
            for number, batch in enumerate(self.batches):
                if self.batches.epoch == self.at + 1 and number == 1:
                    raise Interrupted
                yield batch

    expected, expected_weigh, expected_history = run("whole")
    with pytest.raises(Interrupted):
        run("stopped", stop_in=2)
    model, weigh, history = run("stopped", resume=True)

    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    for name, value in expected_weigh.state_dict().items():
        assert torch.equal(weigh.state_dict()[name], value)
    assert len(history.epochs) == 4
    for name in ("train/loss", "validation/kind/accuracy", "learning_rate"):
        assert history[name] == expected_history[name]
    assert history.best_epoch == expected_history.best_epoch


def test_a_run_stops_early_and_says_which_epoch_was_best(tmp_path):
    model = model_of_vectors()
    batches, validation = [random_batch(32)], [random_batch(32, seed=1)]

    history = fit(
        model, batches, validation, epochs=50, learning_rate=0.5, patience=2, folder=tmp_path / "run", progress=False
    )

    assert len(history.epochs) == history.best_epoch + 2
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best",
        "checkpoints",
        "history.jsonl",
        "run.json",
    ]


def test_a_metric_can_choose_the_best_epoch():
    model = model_of_vectors()

    history = fit(
        model, [random_batch(64)], [random_batch(64, seed=1)], epochs=5, select="sort/accuracy", progress=False
    )

    scores = history["validation/sort/accuracy"]
    assert history.best_epoch == scores.index(max(scores)) + 1


@pytest.mark.plain
def test_fit_refuses_what_cannot_be_trained_before_it_changes_anything(tmp_path):
    model = model_of_vectors()
    batches = [random_batch(8)]
    fit(model, batches, epochs=1, folder=tmp_path / "run", progress=False)
    before = copy.deepcopy(model.state_dict())

    with pytest.raises(ValueError, match="fit got epochs=0. Expected a number above 0"):
        fit(model, batches, epochs=0)
    with pytest.raises(ValueError, match="fit got a list without a batch to train on"):
        fit(model, [], epochs=1)
    with pytest.raises(ValueError, match="fit got a list_iterator without length to train on"):
        fit(model, iter(batches), epochs=1)
    with pytest.raises(ValueError, match="fit got patience without validation batches"):
        fit(model, batches, epochs=1, patience=3)
    with pytest.raises(ValueError, match="fit got select without validation batches"):
        fit(model, batches, epochs=1, select="sort/accuracy")
    for name in ("accumulate", "clip", "patience"):
        with pytest.raises(ValueError, match=f"fit got {name}=0. Expected a number above 0"):
            fit(model, batches, batches, epochs=1, **{name: 0})
    with pytest.raises(ValueError, match="train_epoch got clip=-1.0. Expected a number above 0"):
        train(model, batches, clip=-1.0)
    with pytest.raises(ValueError, match="weight_decay=-0.1. Expected numbers from 0 up. Use 0 for no decay"):
        parameter_groups(model, weight_decay=-0.1)
    with pytest.raises(ValueError, match="warmup_cosine got warmup=1. Expected a share from 0 to below 1"):
        warmup_cosine(make_optimizer(parameter_groups(model)), steps=10, warmup=1)
    with pytest.raises(ValueError, match="Expected an empty folder, so that nothing is lost. Pass resume=True"):
        fit(model, batches, epochs=1, folder=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="fit got resume=True without a folder"):
        fit(model, batches, epochs=1, resume=True)
    with pytest.raises(ValueError, match=r"fit got select='sort/acuracy'.* Did you mean 'sort/accuracy'"):
        fit(model, batches, batches, epochs=1, select="sort/acuracy", progress=False)
    with pytest.raises(ValueError, match="Nothing in this model is trainable"):
        fit(model_of_vectors().requires_grad_(False), batches, epochs=1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.plain
def test_a_number_that_the_validation_does_not_give_cannot_choose():
    unlabelled = random_batch(8)
    validation = [Batch(unlabelled.inputs, {"sort": unlabelled.targets["sort"]})]

    with pytest.raises(ValueError, match=r"select='size/mae', but no validation sample has a known label for it. Exp"):
        fit(model_of_vectors(), [random_batch(8)], validation, epochs=1, select="size/mae", progress=False)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"learning_rate": 0.5, "seed": 4}, "it got learning_rate=0.5 for 0.001, seed=4 for 0. Expected what the run"),
        ({"weight_decay": 0.5}, "it got weight_decay=0.5 for 0.01"),
        ({"select": "sort/accuracy"}, "it got select=sort/accuracy for loss"),
        ({"freeze": True}, "it got trained={'new, decayed': .*Pass the same again, or begin another run"),
    ],
)
def test_a_run_does_not_go_on_with_what_would_be_ignored(tmp_path, other, message):
    validation = [random_batch(8, seed=1)]
    fit(model_of_vectors(), [random_batch(8)], validation, epochs=1, folder=tmp_path, progress=False)
    model = model_of_vectors(seed=1)
    model.encoders["left"].requires_grad_(not other.pop("freeze", False))
    before = copy.deepcopy(model.state_dict())

    with pytest.raises(ValueError, match=f"fit cannot go on with the run in .*: {message}"):
        fit(model, [random_batch(8)], validation, epochs=2, folder=tmp_path, resume=True, progress=False, **other)

    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_run_goes_on_whatever_its_modalities_are_called(tmp_path):
    batch = random_batch(8)
    batches = [Batch({"a/1": batch.inputs["left"]}, {"sort": batch.targets["sort"]})]

    def run(epochs):
        model = MultimodalModel({"a/1": Vector(5)}, Concat({"a/1": 8}, 8), {"sort": Classification(8, 3)})
        return fit(model, batches, epochs=epochs, folder=tmp_path, resume=True, progress=False)

    run(1)

    with pytest.warns(UserWarning, match="with other arguments than before: epochs=2 instead of 1"):
        assert len(run(2).epochs) == 2


@pytest.mark.plain
def test_a_checkpoint_that_does_not_fit_or_is_broken_is_refused(tmp_path):
    fit(model_of_vectors(), [random_batch(8)], epochs=1, folder=tmp_path, progress=False)
    other = model_of_vectors()
    other.register_buffer("more", torch.zeros(3))

    with pytest.raises(ValueError, match=r"more"):
        fit(other, [random_batch(8)], epochs=2, folder=tmp_path, resume=True, progress=False)
    (file,) = (tmp_path / "checkpoints").glob("*/model.safetensors")
    file.write_bytes(b"broken")
    with pytest.raises(CorruptCheckpointError, match="No checkpoint in .* is whole: .*model.safetensors"):
        fit(model_of_vectors(), [random_batch(8)], epochs=2, folder=tmp_path, resume=True, progress=False)


def test_a_nan_leaves_the_last_good_checkpoint(tmp_path):
    model = model_of_vectors()
    model.fusion = Poisoned(model.fusion)
    batches = cut(random_batch(8, known=1.0), [4, 4])

    with pytest.raises(NonFiniteError, match="Step 3"):
        fit(model, batches, epochs=3, folder=tmp_path, progress=False)

    assert Checkpoints(tmp_path).steps == [2]


def test_a_history_can_be_read_by_name_and_saved(tmp_path):
    history = History(
        [{"epoch": 1, "train/loss": 2.0, "r2": math.nan}, {"epoch": 2, "train/loss": 1.0, "rate": 0.5}], best_epoch=2
    )

    history.save(tmp_path / "history.json")

    assert history["train/loss"] == [2.0, 1.0]
    assert json.loads((tmp_path / "history.json").read_text())["best_epoch"] == 2
    assert json.loads((tmp_path / "history.json").read_text())["epochs"][0]["r2"] is None
    with pytest.raises(KeyError, match="The history has no 'loss'. Expected one of"):
        history["loss"]


def test_a_run_that_goes_on_for_more_epochs_has_the_rates_of_a_run_of_as_many(tmp_path):
    batches = cut(random_batch(24), [8, 8, 8])
    fit(model_of_vectors(), batches, epochs=1, folder=tmp_path, progress=False)

    with pytest.warns(UserWarning, match="with other arguments than before: epochs=3 instead of 1"):
        more = fit(model_of_vectors(), batches, epochs=3, folder=tmp_path, resume=True, progress=False)
    whole = fit(model_of_vectors(), batches, epochs=3, progress=False)

    assert [row["learning_rate"] for row in more.epochs[1:]] == [row["learning_rate"] for row in whole.epochs[1:]]


def test_a_task_without_labels_in_the_validation_batches_is_told_once():
    batch = random_batch(24)
    other = Batch(batch.inputs, {"size": batch.targets["size"]})

    with pytest.warns(UserWarning, match=r"have no label of \['sort'\]: the best epoch is chosen without") as caught:
        fit(model_of_vectors(), [batch], [other], epochs=2, progress=False)

    assert len(caught) == 1


@pytest.mark.plain
@pytest.mark.parametrize("use", [lambda m, t: fit(m, t, epochs=1), evaluate, predict])
def test_a_table_is_not_batches(tmp_path, use):
    with pytest.raises(TypeError, match=r"The batches are a Table. .* load_batches\(table, model\)"):
        use(make_model(), read_table(write_rows(tmp_path)))
