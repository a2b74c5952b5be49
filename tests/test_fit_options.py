"""What fit's keywords do, each seen in what comes out."""

import copy
import inspect
import json
import math
import os
import signal
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from test_training import cut, model_of_vectors, random_batch
from torch.utils.data import DataLoader, DistributedSampler

from mmfuse import Batch, Target
from mmfuse.evaluation import evaluate
from mmfuse.training import NonFiniteError, Preempted, arguments, fit

BATCHES = cut(random_batch(24, known=1.0), [8, 8, 8])


def run(model=None, batches=BATCHES, validation=None, **options):
    torch.set_num_threads(1)
    model = model or model_of_vectors()
    history = fit(model, batches, validation, progress=False, **{"epochs": 2} | options)
    return model, history


def differs(model, other):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, other.state_dict()[name])}


def test_the_moving_average_is_what_is_left_and_what_is_validated():
    model, steps = model_of_vectors(), []
    average = copy.deepcopy(model.state_dict())
    run(model, log=lambda *_: steps.append(copy.deepcopy(model.state_dict())), log_every=1)
    for t, weights in enumerate([*steps[:3], *steps[4:7]]):  # the end of each epoch is logged too
        decay = min(0.9, (1 + t) / (10 + t))
        average = {name: decay * value + (1 - decay) * weights[name] for name, value in average.items()}
    validation = [random_batch(16, seed=1, known=1.0)]

    averaged, _ = run(ema=0.9)
    best, history = run(validation=validation, ema=0.9)

    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value, average[name])
    assert evaluate(best, validation).numbers["loss"] == min(history["validation/loss"])


@pytest.mark.plain
def test_a_compiled_model_learns_the_same():
    plain, _ = run(model_of_vectors().double(), in_double())
    compiled, _ = run(model_of_vectors().double(), in_double(), compile={"backend": "eager"})

    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-12, atol=1e-12)


def in_double():
    from torch.utils import _pytree as pytree

    double = lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x  # noqa: E731
    return [pytree.tree_map(double, batch) for batch in BATCHES]


def stop_after(epoch):
    def log(_step, values):
        if values.get("epoch") == epoch:
            raise KeyError("enough")

    return log


def test_an_encoder_that_is_unfrozen_later_is_still_until_then():
    begun = model_of_vectors()

    early = model_of_vectors()
    with pytest.raises(KeyError, match="enough"):
        run(early, epochs=3, unfreeze={"left": 3}, log=stop_after(2))
    late, _ = run(epochs=3, unfreeze={"left": 3})

    assert not {name for name in differs(early, begun) if name.startswith("encoders.left")}
    assert {name for name in differs(late, begun) if name.startswith("encoders.left")}
    assert {name for name in differs(early, begun) if name.startswith("encoders.right")}


def test_a_step_that_is_not_finite_can_be_skipped_up_to_a_limit():
    spoiled = copy.deepcopy(BATCHES)
    spoiled[1].inputs["left"].values[0] = torch.nan
    spoiled[1].inputs["left"].present[0] = True

    with pytest.raises(NonFiniteError, match="Step 2"):
        run(batches=spoiled)
    with pytest.warns(UserWarning, match="Step 2: .* The step is skipped: 1 of at most 10"):
        model, history = run(batches=spoiled, epochs=1, on_nonfinite="skip")
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(NonFiniteError, match="more than max_skips=1"):
        run(batches=spoiled, on_nonfinite="skip", max_skips=1)

    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert history["train/loss"][0] > 0


class Running(torch.nn.Module):
    """A weighting that keeps a running mean of each loss."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def forward(self, losses):
        total = torch.stack(list(losses.values())).sum()
        self.mean.lerp_(total.detach(), 0.5)
        return total / self.mean


def test_a_skipped_step_leaves_no_trace_in_a_weighting_that_counts():
    spoiled = copy.deepcopy(BATCHES)
    spoiled[1].inputs["left"].values[0] = torch.nan
    spoiled[1].inputs["left"].present[0] = True
    weigh = Running()

    with pytest.warns(UserWarning, match="The step is skipped: 1 of at most 10"):
        run(batches=spoiled, epochs=1, on_nonfinite="skip", weigh=weigh)

    assert weigh.mean.isfinite()


def test_a_run_with_a_bar_says_what_each_epoch_gave_and_where_it_goes_on(tmp_path, capfd):
    validation = [random_batch(16, seed=1, known=1.0)]

    fit(model_of_vectors(), BATCHES, validation, epochs=1, folder=tmp_path / "run", resume=True)
    with pytest.warns(UserWarning, match="epochs=2 instead of 1"):
        fit(model_of_vectors(), BATCHES, validation, epochs=2, folder=tmp_path / "run", resume=True)

    said = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if ": goes on" in line]
    assert said[0].endswith("run: goes on from the beginning: there is no checkpoint")
    assert said[1].endswith("run: goes on after step 3, in epoch 2")
    fit(model_of_vectors(), BATCHES, validation, epochs=1)
    err = capfd.readouterr().err
    assert "epoch 1/1: train/loss " in err
    assert "validation/sort/accuracy" in err
    assert "the best so far" in err


def test_a_log_is_called_with_numbers_and_an_error_of_it_ends_the_run(tmp_path):
    told = []

    run(log=lambda step, values: told.append((step, dict(values))), log_every=2, validation=[random_batch(8)])

    assert [step for step, _ in told] == [2, 3, 4, 6, 6]
    assert told[0][1]["step/sort/loss"] > 0
    assert "validation/sort/accuracy" in told[1][1]
    assert told[1][1]["epoch"] == 1

    class Closing:
        closed = False

        def __call__(self, step, values):
            raise KeyError("no more")

        def close(self):
            self.closed = True

    log = Closing()
    with pytest.raises(KeyError, match="no more"):
        run(log=[log], folder=tmp_path)
    assert log.closed


def test_switches_of_torch_are_put_back():
    before = torch.get_float32_matmul_precision()
    seen = []

    def log(_step, _values):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()))

    run(log=log, deterministic=True, tf32=True)

    assert set(seen) == {(True, "high")}
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.plain
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strategy": "dpp"}, ValueError, r"strategy='dpp'\. Expected one of .* Did you mean 'ddp'"),
        ({"on_nonfinite": "ignore"}, ValueError, "on_nonfinite='ignore'. Expected one of"),
        ({"max_skips": -1}, ValueError, "max_skips=-1"),
        ({"max_skips": -1, "on_nonfinite": "skip"}, ValueError, "fit got max_skips=-1. Expected a number from 0 up."),
        ({"ema": 1.0}, ValueError, "fit got ema=1.0. Expected a number from 0 to below 1. Write ema=0.999, or leave"),
        ({"ema": True}, TypeError, "fit got ema=True. Expected the decay of the average. Write ema=0.999, or leave it"),
        ({"warmup": 2}, ValueError, "fit got warmup=2. Expected a number from 0 to below 1: a share of the steps."),
        ({"learning_rate": 0}, ValueError, "fit got learning_rate=0. Expected a number above 0"),
        ({"weight_decay": -1.0}, ValueError, "fit got weight_decay=-1.0. Expected a number from 0 up"),
        ({"unfreeze": {"rihgt": 2}}, ValueError, "'rihgt'.*Did you mean 'right'"),
        ({"layer_decay": 0.0}, ValueError, "layer_decay=0.0"),
        ({"log_every": 0}, ValueError, "log_every=0"),
        ({"save_every": 0}, ValueError, "save_every=0"),
        ({"keep": 0}, ValueError, "keep=0"),
        ({"precision": "fp61"}, ValueError, "fit got precision='fp61'. Expected one of .* Did you mean 'fp16'"),
        ({"epochs": "3"}, TypeError, "fit got epochs='3'. Expected a whole number. Write epochs=3 for example"),
        (
            {"save_every": 5},
            ValueError,
            "fit got save_every=5 without a folder: no checkpoint would be kept. .*folder=",
        ),
        (
            {"keep": 5},
            ValueError,
            "fit got keep=5 without a folder: no checkpoint would be kept. Expected what it needs",
        ),
        ({"resume": True}, ValueError, "fit got resume=True without a folder: no checkpoint would be kept"),
        (
            {"log_every": 5},
            ValueError,
            "fit got log_every=5 without log or folder: nothing would be logged. .*log=Tens",
        ),
        (
            {"max_skips": 3},
            ValueError,
            "fit got max_skips=3 although no step is skipped. .*on_nonfinite='skip', or lea",
        ),
        ({"epochs": None}, TypeError, "fit got epochs=None. Expected a whole number"),
        ({"accumulate": 1.5}, TypeError, "fit got accumulate=1.5. Expected a whole number"),
        ({"patience": True}, TypeError, "fit got patience=True. Expected a whole number"),
        ({"seed": "3"}, TypeError, "fit got seed='3'. Expected a whole number"),
        ({"learning_rate": "0.1"}, TypeError, "learning_rate='0.1'. Expected a finite number. Leave learning_rate out"),
        ({"weight_decay": float("nan")}, ValueError, "fit got weight_decay=nan. Expected a finite number"),
        ({"warmup": None}, TypeError, "fit got warmup=None. Expected a finite number"),
        ({"deterministic": "no"}, TypeError, "fit got deterministic='no'. Expected True or False"),
        ({"tf32": 1}, TypeError, "fit got tf32=1. Expected True or False"),
        ({"model": torch.nn.Linear(2, 2)}, TypeError, r"fit got model=Linear\(.* Expected a MultimodalModel"),
        ({"weigh": lambda losses: 0}, TypeError, "fit got weigh=<function.* Expected a module: losses by task"),
        ({"balance": print}, TypeError, "fit got balance=<built-in function print>. Expected a list of functions"),
        ({"balance": [3]}, TypeError, "fit got 3 in balance. Expected functions of model, outputs and batches"),
        ({"unfreeze": ["left"]}, TypeError, r"fit got unfreeze=\['left'\]. Expected the epoch from which"),
        (
            {"unfreeze": {"left": [2]}},
            TypeError,
            r"unfreeze got the epoch \[2\] for 'left'. Expected a whole number from",
        ),
        ({"compile": "yes"}, TypeError, "fit got compile='yes'. Expected True, False, or options of torch.compile"),
        ({"seed": 2**70}, ValueError, "fit got seed=1180591620717411303424. Expected a number of 64 bits"),
        (
            {"strategy": "ddp"},
            ValueError,
            "strategy='ddp' was asked for in a process on its own. Expected processes th",
        ),
        ({"select": None}, TypeError, "fit got select=None. Expected the name of a number"),
        ({"folder": 3}, TypeError, "fit got folder=3. Expected a path"),
        ({"folder": __file__}, ValueError, "test_fit_options.py', which is a file. Expected a folder"),
        ({"device": "gpu"}, ValueError, "fit got device='gpu', which cannot be used: .* Expected 'cuda', 'cuda:1' or"),
        ({"batches": "x"}, TypeError, "The batches are a str. Expected something that gives a Batch"),
        ({"batches": [{"a": 1}]}, TypeError, "One of the batches is a dict. Expected a Batch. Return Batch"),
        ({"validation": [3]}, TypeError, "One of the batches is a int. Expected a Batch"),
        ({"validation": []}, ValueError, "fit got a list without a batch as validation. Expected batches"),
        ({"validation": iter(BATCHES)}, ValueError, "a list_iterator that can be read once only as validation"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_changed(options, error, message):
    model = model_of_vectors()
    before = copy.deepcopy(model.state_dict())

    with pytest.raises(error, match=message):
        run(**{"model": model} | options)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_has_no_use_is_known_by_the_values_that_stand_in_fit():
    given = inspect.signature(fit).parameters

    assert {name: given[name].default for name in arguments.UNUSED} == arguments.UNUSED


@pytest.mark.plain
def test_a_plan_that_is_never_reached_is_told_at_the_beginning():
    with pytest.warns(UserWarning, match=r"epochs for \['left'\] come after the last, epochs=2: what waits") as caught:
        run(unfreeze={"left": 9, "right": {1: 1}})

    assert caught[0].filename == __file__


@pytest.mark.plain  # for the shape checks an int of numpy is none
def test_numbers_of_numpy_are_as_good_as_others(tmp_path):
    rates = {"learning_rate": np.float64(0.01), "clip": np.float32(2.0)}
    counts = {"epochs": np.int64(2), "accumulate": np.int32(2), "save_every": np.int64(1), "seed": np.int64(3)}

    _, history = run(folder=tmp_path, resume=True, **rates, **counts)
    _, again = run(folder=tmp_path, resume=True, **rates, **counts)

    assert again.epochs == history.epochs
    (session, _) = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert session["arguments"]["accumulate"] == 2


@pytest.mark.plain
def test_batches_of_another_kind_are_told_when_they_come():
    wrong = DataLoader([{"left": 1.0}] * 3, batch_size=3)

    with pytest.raises(TypeError, match="One of the batches is a dict. Expected a Batch. Return Batch"):
        run(batches=wrong)
    with pytest.raises(TypeError, match="One of the batches is a dict. Expected a Batch. Return Batch"):
        evaluate(model_of_vectors(), wrong)


class Once:
    """Batches that can be read once, although they have a length."""

    def __init__(self, batches, length=3):
        self.length, self.rest = length, iter(batches)

    def __len__(self):
        return self.length

    def __iter__(self):
        return self.rest


def test_an_epoch_without_a_batch_is_an_error_and_one_with_too_few_is_told():
    with pytest.raises(ValueError, match="An epoch had no batch, and not 3, as its len.. says"):
        run(batches=Once(BATCHES))
    with pytest.warns(UserWarning, match="An epoch had 3 batches, and not 5, as its len.. says"):
        run(batches=Once(BATCHES, length=5), epochs=1)


def without_labels(*names):
    return [
        Batch(batch.inputs, {n: Target(x.values, x.known & (n not in names)) for n, x in batch.targets.items()})
        for batch in BATCHES
    ]


def test_a_task_without_a_label_in_the_training_batches_is_told_once():
    with pytest.warns(UserWarning, match=r"training batches have no known label of \['size'\]") as caught:
        run(batches=without_labels("size"))

    assert len(caught) == 1


def test_the_loss_of_nothing_is_not_zero():
    with pytest.warns(UserWarning, match=r"training batches have no known label of \['sort', 'size'\]"):
        _, history = run(batches=without_labels("sort", "size"), epochs=1)

    assert math.isnan(history["train/loss"][0])


def test_what_waits_for_its_epoch_is_trainable_again_after_the_run():
    model, stopped = model_of_vectors(), model_of_vectors()

    def stop(_step, _values):
        raise KeyError("no more")

    with pytest.warns(UserWarning, match="come after the last"):
        run(model, unfreeze={"left": 9})
    with pytest.raises(KeyError, match="no more"):
        run(stopped, unfreeze={"left": 2}, log=stop)

    assert all(parameter.requires_grad for both in (model, stopped) for parameter in both.parameters())


@pytest.mark.parametrize("kind", ["sampler", "batch_sampler"])
def test_a_sampler_of_several_processes_is_told_the_epoch(kind):
    batch, seen = random_batch(24, known=1.0), []

    class Sampler(DistributedSampler):
        def set_epoch(self, epoch):
            seen.append(epoch)
            super().set_epoch(epoch)

    sampler = Sampler(range(3), num_replicas=1, rank=0)
    given = {"sampler": sampler, "batch_size": 1} if kind == "sampler" else {"batch_sampler": Batches(sampler)}
    collate = lambda rows: cut(batch, [8, 8, 8])[rows[0]]  # noqa: E731

    run(batches=DataLoader(range(3), collate_fn=collate, **given), epochs=3)

    assert seen == [0, 1, 2]


class Batches(list):
    """A batch sampler of one row a batch."""

    def __init__(self, sampler):
        super().__init__([row] for row in sampler)
        self.set_epoch = sampler.set_epoch


@pytest.mark.parametrize(("step", "handed_on"), [(6, [signal.SIGTERM]), (3, [])])
def test_a_signal_that_no_step_meets_goes_to_who_handled_it_before(step, handed_on):
    received = []

    def log(now, values):
        if now == step and "epoch" in values:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        with nullcontext() if handed_on else pytest.raises(Preempted, match="SIGTERM stopped the run after step 3"):
            run(log=log)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert received == handed_on


def test_a_score_that_is_never_a_number_stops_the_run_and_is_told():
    batch = random_batch(8, known=1.0)
    only = Batch(batch.inputs, {"sort": Target(torch.zeros(8, dtype=torch.long), batch.targets["sort"].known)})

    with pytest.warns(UserWarning, match="No epoch could be chosen: 'sort/auroc' was NaN in each, so the model has"):
        _, history = run(validation=[only], epochs=9, patience=2, select="sort/auroc")

    assert len(history.epochs) == 2
    assert history.best_epoch is None


def test_a_weighting_without_a_part_is_not_taken_for_none():
    class Triple(torch.nn.ModuleList):
        def forward(self, losses):
            return 3.0 * sum(losses.values())

    once, _ = run(epochs=1, clip=None, weigh=Triple())
    plain, _ = run(epochs=1, clip=None)

    assert differs(once, plain)


@pytest.mark.plain
def test_something_that_is_no_log_is_refused():
    with pytest.raises(TypeError, match="fit got a str as log|fit got a int as log"):
        run(log=3)
