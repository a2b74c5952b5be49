"""Losses and gradients that are not finite: who is named, what stays as it was, and what is skipped."""

import csv
import math
import warnings

import pytest
import torch
from processes import outcomes
from tiny_loader import Number
from torch import nn

from mmfuse import Batch, Features, Input, MultimodalModel, Target
from mmfuse.data import Mixup, Sample, load_batches, read_table
from mmfuse.fusion import Concat
from mmfuse.losses import Sum
from mmfuse.tasks import Classification, Regression
from mmfuse.training import NonFinite, NonFiniteError, Precision, fit, train_epoch
from mmfuse.training.blame import samples_at_fault
from mmfuse.training.meter import Meter
from mmfuse.training.nonfinite import explain_nonfinite


class Vector(nn.Module):
    """A linear layer on a vector, with something in between."""

    def __init__(self, width=1, inner=None):
        super().__init__()
        self.dim = 8
        self.layer = nn.Linear(width, 8)
        self.inner = inner or nn.Identity()

    def transform(self, train=False):
        return Number()

    def forward(self, input):
        return Features.from_pooled(self.inner(self.layer(input.zeroed().values)), input.present)


def make_model(inner=None, width=1):
    torch.manual_seed(0)
    tasks = {"sort": Classification(8, ["a", "b"]), "size": Regression(8)}
    return MultimodalModel({"left": Vector(width, inner)}, Concat({"left": 8}, 8), tasks)


def make_batch(values, sizes=None):
    values = torch.as_tensor(values, dtype=torch.float32).reshape(len(values), -1)
    known = torch.ones(len(values), dtype=torch.bool)
    sizes = torch.zeros(len(values)) if sizes is None else torch.tensor(sizes)
    targets = {"sort": Target(torch.arange(len(values)) % 2, known), "size": Target(sizes, known)}
    return Batch({"left": Input(values, known)}, targets)


def train(model, batches, nonfinite=None, weigh=None, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return list(train_epoch(model, batches, weigh=weigh or Sum(), optimizer=optimizer, nonfinite=nonfinite, **options))


def failure(model, batches, **options):
    with pytest.raises(NonFiniteError) as caught:
        train(model, batches, **options)
    return caught.value


def write_table(path, rows=24, bad=()):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["left", "sort", "size"])
        writer.writerows(["nan" if i in bad else i / rows, "ab"[i % 2], i / rows] for i in range(rows))
    return read_table(path)


@pytest.mark.plain
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_rows_of_a_table_are_named_by_file_and_line_whatever_their_order(tmp_path, accumulate):
    bad = {3, 17}
    model = make_model()
    loader = load_batches(
        write_table(tmp_path / "rows.csv", bad=bad), model, train=True, batch_size=4, check_finite=False, seed=1
    )
    error = failure(model, Meter(loader, "", show=False), accumulate=accumulate)

    order = loader.rows()
    place = min(order.index(row) for row in bad) // (4 * accumulate)
    window = order[place * 4 * accumulate : (place + 1) * 4 * accumulate]
    assert error.samples == [loader.dataset.place(row) for row in window if row in bad]
    assert error.step == place + 1 and error.tasks == ["sort", "size"]
    assert f"Step {place + 1}: the loss of 'sort' and 'size' is not finite." in str(error)
    line = next(row for row in window if row in bad) + 2
    assert f"The first that is not finite is the input 'left'. It is that of rows.csv line {line}" in str(error)


def test_rows_are_named_in_an_epoch_that_was_taken_up_in_its_middle(tmp_path):
    table = write_table(tmp_path / "rows.csv", bad={5})
    model = make_model()
    loader = load_batches(table, model, train=True, batch_size=2, check_finite=False)
    first = iter(loader)
    used = loader.rows().index(5) // 2
    for _ in range(used):
        next(first)
    loader.start(loader.position(used))

    error = failure(model, loader, first_step=used + 1)

    assert error.step == used + 1
    assert error.samples == [loader.dataset.place(5)]


@pytest.mark.plain
def test_a_row_that_may_have_been_mixed_with_another_is_told_with_this_doubt(tmp_path):
    table = write_table(tmp_path / "rows.csv", bad={5})
    model = make_model()
    mix = Mixup(alpha=1.0)
    loader = load_batches(table, model, train=True, batch_size=24, check_finite=False, mix=mix)

    error = failure(model, loader)

    assert all(name.endswith("(or what was mixed into it)") for name in error.samples)


def test_samples_of_a_list_are_named_by_their_numbers():
    batches = [make_batch([0.1, 0.2, 0.3]), make_batch([0.1, 0.2, math.inf, 0.3])]

    error = failure(make_model(), batches)

    assert error.samples == ["sample 2 of batch 1"]


class Clips(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, row):
        return Sample({"left": torch.tensor([row / 12])}, {"size": 1e30 if row == 7 else 0.5})


def test_a_label_whose_loss_alone_is_too_large_is_named():
    model = make_model()
    loader = load_batches(Clips(), model, train=True, batch_size=4)

    error = failure(model, loader)

    assert error.tasks == ["size"]
    assert error.samples == ["Clips sample 7"]
    assert "Alone, only Clips sample 7 makes it so." in str(error)


class Exponential(nn.Module):
    def forward(self, x):
        return (10 * x.abs()).exp()


def test_a_sample_whose_activations_alone_are_too_large_is_named_with_the_module():
    error = failure(make_model(Exponential()), [make_batch([0.1, 500.0, 0.2])])

    assert error.samples == ["sample 1 of batch 0"]
    assert "The first that is not finite is the output of encoders.left.inner." in str(error)


def test_a_batch_norm_that_spreads_it_over_the_batch_leaves_the_innocent_unnamed():
    model = make_model(nn.Sequential(Exponential(), nn.BatchNorm1d(8)))
    train(model, [make_batch([0.1, 0.2, 0.3])])
    before = {name: value.clone() for name, value in model.state_dict().items()}

    error = failure(model, [make_batch([0.1, 500.0, 0.2, 0.3])])

    assert error.samples == ["sample 1 of batch 0"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_sample_whose_gradient_alone_is_not_finite_is_named():
    class Zero(nn.Module):
        def forward(self, x):
            return (x * (x.abs().sum(dim=1, keepdim=True) > 0)).abs().sqrt()

    model = make_model(Zero())
    nn.init.zeros_(model.encoders["left"].layer.bias)
    error = failure(model, [make_batch([0.1, 0.2]), make_batch([0.3, 0.0, 0.2])], accumulate=2)

    assert error.tasks == []
    assert "a gradient (every loss is finite) is not finite. The first that is not finite is the gradient of" in str(
        error
    )
    assert error.samples == ["sample 1 of batch 1"]


def test_what_every_sample_does_is_blamed_on_none():
    model = make_model()
    with torch.no_grad():
        model.encoders["left"].layer.weight.fill_(math.nan)

    error = failure(model, [make_batch([0.1, 0.2])])

    assert error.samples == []
    assert "is the output of encoders.left.layer. Every sample alone makes it so." in str(error)


class Once(nn.Module):
    """Not finite in one call, as by chance."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x / (0.0 if self.calls == 1 else 1.0)


def test_what_does_not_happen_again_is_told_to_be_chance_and_names_nobody():
    error = failure(make_model(Once()), [make_batch([0.1, 0.2])])

    assert error.samples == []
    assert "no output when run again" in str(error) and "No sample alone makes it so." in str(error)


def test_to_look_for_the_cause_draws_no_random_number_and_changes_no_gradient():
    model = make_model(nn.Sequential(Exponential(), nn.Dropout(0.5)))
    batch = make_batch([0.1, 500.0])
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = torch.get_rng_state()

    explain_nonfinite(1, model, [batch], {"size": torch.tensor(math.nan)}, Precision("float32", torch.device("cpu")))

    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.encoders["left"].inner[1].training
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in model.parameters())


def test_what_is_only_too_large_for_float16_is_tried_alone_in_float16():
    precision = Precision("float32", torch.device("cpu"))
    precision.name = "fp16"
    batch = make_batch([0.1, 3e5, 0.2])

    assert samples_at_fault(make_model(), batch, precision, gradient=False) == [1]
    assert samples_at_fault(make_model(), batch, Precision("float32", torch.device("cpu")), gradient=False) == []


def test_a_sharded_model_is_not_run_on_single_samples():
    model = make_model(Exponential())
    model.encoders["left"].layer.weight.device_mesh = "of several processes"

    assert samples_at_fault(model, make_batch([500.0]), Precision("float32", torch.device("cpu")), gradient=True) == []


def _find_on_rank_1():
    from mmfuse.distributed import rank

    batch = make_batch([0.1, 0.2, 500.0 if rank() else 0.3])
    with pytest.raises(NonFiniteError) as caught:
        train(make_model(Exponential()), [batch])
    return caught.value.step, caught.value.samples, str(caught.value)


def test_of_several_processes_all_stop_and_the_one_that_has_the_sample_names_it():
    first, second = outcomes(2, _find_on_rank_1, timeout=60)

    assert first.result[:2] == (1, []), first.log
    assert "The first that is not finite is nothing of this process: another one names it" in first.result[2]
    assert second.result[:2] == (1, ["sample 2 of batch 0"]), second.log


@pytest.mark.plain
def test_a_skipped_step_changes_nothing_and_is_counted():
    good, bad = make_batch([0.1, 0.2]), make_batch([0.3, math.nan])
    model, other = make_model(nn.BatchNorm1d(8)), make_model(nn.BatchNorm1d(8))
    policy = NonFinite("skip", limit=1)

    with pytest.warns(UserWarning, match="Step 2: .* of sample 1 of batch 1.* The step is skipped: 1 of at most 1."):
        steps = train(model, [good, bad, good], policy)
    train(other, [good, good])

    assert [bool(torch.stack(list(losses.values())).isfinite().all()) for losses in steps] == [True, False, True]
    assert policy.skipped == 1 and policy.state_dict() == {"skipped": 1}
    for (name, value), expected in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, expected), name


@pytest.mark.plain
def test_more_skipped_steps_than_allowed_stop_the_run():
    bad = make_batch([0.3, math.nan])
    policy = NonFinite("skip", limit=2)
    policy.load_state_dict({"skipped": 1})  # before the run was stopped

    with (
        pytest.warns(UserWarning, match="2 of at most 2"),
        pytest.raises(
            NonFiniteError, match=r"3 steps were not finite, more than max_skips=2 allows. The last: Step 2:"
        ),
    ):
        train(make_model(), [bad, bad, bad], policy)

    assert policy.skipped == 3


def test_a_skipped_step_leaves_no_trace_in_a_weighting_that_puts_another_tensor_in_the_place_of_its_buffer():
    class Running(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.ones(()))

        def forward(self, losses):
            total = sum(losses.values())
            self.mean = 0.9 * self.mean + 0.1 * total.detach()
            return total / self.mean

    good, bad = make_batch([0.1, 0.2]), make_batch([math.nan, 0.1])
    weigh, same, policy = Running(), Running(), NonFinite("skip", limit=1)

    with pytest.warns(UserWarning, match="The step is skipped"):
        train(make_model(), [good, bad, good], policy, weigh)
    train(make_model(), [good, good], weigh=same)

    assert policy.skipped == 1
    assert torch.equal(weigh.mean, same.mean)


def with_scaler(scale):
    precision = Precision("float32", torch.device("cpu"))
    precision.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return precision


def test_a_scaler_that_looks_for_its_scale_is_no_fault_and_counts_for_nothing():
    policy, precision = NonFinite("skip", limit=0), with_scaler(2.0**127)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(make_model(), [make_batch([0.1, 30.0])] * 4, policy, precision=precision)

    assert policy.skipped == 0
    assert precision.scaler.get_scale() < 2.0**127


def test_a_gradient_that_is_not_finite_at_the_smallest_scale_either_is_a_fault():
    class Steep(nn.Module):
        def forward(self, x):
            return (x - x).abs().sqrt() + x

    error = failure(make_model(Steep()), [make_batch([0.1, 0.2])] * 30, precision=with_scaler(4.0))

    assert error.step == 4  # at the scale of 4, 2 and 1 it might have been the scale


def test_a_rule_that_makes_a_finite_gradient_infinite_is_a_fault_that_no_scale_cures():
    model, edited = make_model(), []
    before = [parameter.clone() for parameter in model.parameters()]

    def spoil(of, _outputs, _batches):
        edited.append(all(bool(parameter.grad.isfinite().all()) for parameter in of.parameters()))
        next(of.parameters()).grad.mul_(math.inf)

    batches = [make_batch([0.1, 30.0])] * 4
    error = failure(model, batches, precision=with_scaler(2.0**127), balance=[spoil], clip=1.0)

    assert error.tasks == []
    assert edited == [True]  # in the steps before, the scaler left out what was infinite already
    assert all(torch.equal(parameter, same) for parameter, same in zip(model.parameters(), before, strict=True))


def test_a_loss_that_is_not_finite_lowers_the_scale_when_its_step_is_skipped():
    precision = with_scaler(4.0)

    with pytest.warns(UserWarning, match="The step is skipped"):
        train(make_model(), [make_batch([math.nan, 0.1])], NonFinite("skip"), precision=precision)

    assert precision.scaler.get_scale() == 2.0


def test_fit_skips_counts_and_logs_what_is_not_finite_as_it_is(tmp_path):
    batches = [make_batch([0.1, 0.2]), make_batch([0.3, math.nan]), make_batch([0.2, 0.4])]
    told = []

    with pytest.warns(UserWarning, match="Step 2: .* 1 of at most 10"):
        history = fit(
            make_model(),
            batches,
            epochs=1,
            on_nonfinite="skip",
            log=lambda step, values: told.append((step, dict(values))),
            log_every=1,
            progress=False,
        )

    logged = {step: values["step/loss"] for step, values in told if "step/loss" in values}
    assert math.isnan(logged[2]) and math.isfinite(logged[1]) and math.isfinite(logged[3])
    assert history["train/loss"][0] == pytest.approx((logged[1] + logged[3]) / 2)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("settings", "message"),
    [(("ignore",), "on_nonfinite='ignore'. Expected one of"), (("skip", -1), "max_skips=-1. Expected 0 or more")],
)
def test_a_policy_that_there_is_not_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NonFinite(*settings)
