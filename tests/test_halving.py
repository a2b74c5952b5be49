"""A step that runs out of memory is done again in smaller parts, and is the same step."""

import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

from mmfuse import Batch, Features, Input, MultimodalModel, Target
from mmfuse.fusion import Concat
from mmfuse.losses import Sum
from mmfuse.tasks import Classification, Regression
from mmfuse.training import (
    Halving,
    NonFiniteError,
    fit,
    halving,
    make_optimizer,
    parameter_groups,
    progress,
    train_epoch,
)

CUT = "Step 1 ran out of memory. It was done again in smaller parts.* each batch is cut in 2, to at most 4 samples"


def refuse():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


class Backward(torch.autograd.Function):
    """Nothing, whose backward pass finds no memory."""

    @staticmethod
    def forward(_context, values):
        return values.clone()

    @staticmethod
    def backward(_context, _gradient):
        torch.empty(1 << 50)


class Limited(nn.Module):
    """An encoder that has memory for so many samples; it draws random numbers and keeps statistics."""

    dim = 6

    def __init__(self, most, where="forward", norm=True):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6) if norm else nn.Identity(), nn.Dropout(0.3))
        self.most, self.where, self.seen = most, where, []
        self.kept, self.left = [], []  # what was made too large, and whether it was still there later

    def forward(self, input):
        self.left.append(any(kept() is not None for kept in self.kept))
        values = self.layers(input.values)
        self.seen.append(len(values))
        self.kept = [*self.kept, weakref.ref(values)] if len(values) > self.most else []
        if len(values) > self.most:
            if self.where == "forward":
                refuse()
            values = Backward.apply(values)
        return Features.from_pooled(values, input.present)


def make_model(most=1000, where="forward", norm=True):
    torch.manual_seed(0)
    encoders = {"x": Limited(most, where, norm)}
    return MultimodalModel(encoders, Concat({"x": 6}, 8), {"y": Regression(8), "c": Classification(8, 3)}).double()


def parts(batch, size):
    inputs, targets = batch.inputs["x"], batch.targets
    rows = [slice(first, first + size) for first in range(0, len(inputs.present), size)]
    return [
        Batch(
            {"x": Input(inputs.values[r], inputs.present[r])},
            {name: Target(target.values[r], target.known[r]) for name, target in targets.items()},
        )
        for r in rows
    ]


def batches_of(size, number):
    """The same samples, whatever their batches."""
    random, count = torch.Generator().manual_seed(1), size * number
    x, y, known = (torch.rand(count, width, generator=random).double() for width in (3, 1, 1))
    known, y = known[:, 0] < 0.6, y[:, 0]
    targets = {"y": Target(y, known), "c": Target((y > 0.5).long(), ~known)}
    return parts(Batch({"x": Input(x, torch.ones(count, dtype=torch.bool))}, targets), size)


def run(model, batches, **options):
    history = fit(model, batches, epochs=2, learning_rate=0.01, progress=False, device="cpu", **options)
    return model.state_dict(), [epoch["train/loss"] for epoch in history.epochs]


def assert_same(found, expected, atol=1e-12):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol)


@pytest.mark.plain  # the shape checks would be who is warned
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_run_is_the_one_that_began_with_smaller_batches(where):
    model = make_model(4, where)

    gc.disable()
    try:
        with pytest.warns(UserWarning, match=CUT) as told:
            found, losses = run(model, batches_of(8, 3), on_out_of_memory="halve")
    finally:
        gc.enable()

    expected, same = run(make_model(), batches_of(4, 6), accumulate=2)
    assert_same(found, expected)
    assert losses == pytest.approx(same, abs=1e-12)
    assert [warning.filename for warning in told] == [__file__]
    assert model.encoders["x"].seen == [8] + [4] * 12
    assert not any(model.encoders["x"].left)  # the second attempt has all the memory


def test_a_step_is_cut_again_until_it_fits_and_what_was_done_before_counts_once():
    (small,), (large,) = batches_of(2, 1), batches_of(8, 1)
    ways = {}
    for name, model, batches in (
        ("cut", make_model(2, norm=False), [small, large]),
        ("small", make_model(norm=False), [*parts(small, 1), *parts(large, 2)]),
    ):
        torch.manual_seed(3)
        optimizer = make_optimizer(parameter_groups(model))
        options = {"weigh": Sum(), "optimizer": optimizer, "accumulate": len(batches), "halving": Halving("halve")}
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            list(train_epoch(model, batches, **options))
        ways[name] = model.state_dict(), model.encoders["x"].seen, [str(each.message) for each in told]

    assert_same(ways["cut"][0], ways["small"][0])
    assert ways["cut"][1] == [2, 8, 1, 1, 4, 1, 1, 2, 2, 2, 2]
    assert len(ways["cut"][2]) == 1 and "each batch is cut in 4, to at most 2 samples here" in ways["cut"][2][0]
    assert ways["small"][2] == []


@pytest.mark.plain
def test_what_does_not_fit_as_a_single_sample_is_an_error_about_that():
    model = make_model(0, norm=False)

    with pytest.raises(torch.OutOfMemoryError, match="Step 1 ran out of memory: .* A batch of 1 samples in float32"):
        run(model, batches_of(8, 1), on_out_of_memory="halve")

    assert model.encoders["x"].seen == [8, 4, 2, 1]


def test_other_errors_and_other_policies_get_no_second_attempt():
    class Wrong(Limited):
        def forward(self, input):
            super().forward(input)
            raise RuntimeError("shapes that do not fit")

    for make, error, options in (
        (lambda: Wrong(1000), "shapes that do not fit", {"on_out_of_memory": "halve"}),
        (lambda: Limited(4), "Step 1 ran out of memory", {}),
    ):
        model = make_model()
        model.encoders["x"] = make().double()
        with pytest.raises(RuntimeError, match=error):
            run(model, batches_of(8, 3), **options)
        assert model.encoders["x"].seen == [8]


def test_a_run_that_goes_on_is_cut_as_it_was(tmp_path):
    class Stop(Exception):
        pass

    def stop(step, _values):
        if step == 4:
            raise Stop

    options = {"on_out_of_memory": "halve", "save_every": 1, "log_every": 1}
    with pytest.warns(UserWarning, match=CUT):
        expected, losses = run(make_model(4), batches_of(8, 3), folder=tmp_path / "whole", **options)
    with pytest.warns(UserWarning, match=CUT), pytest.raises(Stop):
        run(make_model(4), batches_of(8, 3), folder=tmp_path / "parts", log=stop, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, same = run(make_model(4), batches_of(8, 3), folder=tmp_path / "parts", resume=True, **options)

    assert_same(found, expected, atol=0)
    assert losses == same


def test_a_sample_that_is_not_finite_is_named_in_a_step_that_was_cut():
    (batch,) = batches_of(8, 1)
    batch.inputs["x"].values[5] = torch.nan
    model = make_model(4)

    with pytest.warns(UserWarning, match=CUT), pytest.raises(NonFiniteError) as caught:
        run(model, [batch], on_out_of_memory="halve")

    assert caught.value.samples == ["sample 5 of batch 0"]


def test_rules_see_the_parts_of_a_step_and_its_whole_gradient():
    seen = []

    def rule(model, outputs, batches):
        seen.append([len(part.predictions["y"]) for part in outputs])
        assert [len(part.inputs["x"].present) for part in batches] == seen[-1]

    with pytest.warns(UserWarning, match=CUT):
        run(make_model(4), batches_of(8, 1), balance=[rule], on_out_of_memory="halve")

    assert seen == [[4, 4], [4, 4]]


@pytest.mark.plain
def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(halving, "world", lambda: 2)

    with pytest.raises(ValueError, match="on_out_of_memory='halve' in a run of 2 processes. Expected 'raise' there"):
        Halving("halve")


def test_several_processes_go_on_with_batches_that_are_not_cut(monkeypatch):
    one = progress.Progress([], Halving("halve"))
    one.halving.parts = 4
    again, several = progress.Progress([]), progress.Progress([])

    again.load_state_dict(one.state_dict())
    monkeypatch.setattr(progress, "world", lambda: 2)
    several.load_state_dict(one.state_dict())

    assert (again.halving.parts, several.halving.parts) == (4, 1)


@pytest.mark.plain
def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="fit got on_out_of_memory='again'. Expected"):
        Halving("again")
