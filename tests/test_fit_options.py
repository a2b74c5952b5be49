"""What fit's keywords do, each seen in what comes out."""

import copy

import pytest
import torch
from test_training import cut, model_of_vectors, random_batch

from mmfuse.evaluation import evaluate
from mmfuse.training import NonFiniteError, fit

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


def test_a_compiled_model_learns_the_same():
    plain, _ = run(model_of_vectors().double(), in_double())
    compiled, _ = run(model_of_vectors().double(), in_double(), compile={"backend": "eager"})

    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-12, atol=1e-12)


def in_double():
    from torch.utils import _pytree as pytree

    double = lambda x: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x  # noqa: E731
    return [pytree.tree_map(double, batch) for batch in BATCHES]


def test_an_encoder_that_is_unfrozen_later_is_still_until_then():
    begun = model_of_vectors()

    early, _ = run(epochs=2, unfreeze={"left": 3})
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
    ("options", "message"),
    [
        ({"strategy": "dpp"}, r"strategy='dpp'\. Expected one of .* Did you mean 'ddp'"),
        ({"on_nonfinite": "ignore"}, "on_nonfinite='ignore'. Expected one of"),
        ({"max_skips": -1}, "max_skips=-1"),
        ({"ema": 1.0}, "got decay=1.0"),
        ({"unfreeze": {"rihgt": 2}}, "'rihgt'.*Did you mean 'right'"),
        ({"layer_decay": 0.0}, "layer_decay=0.0"),
        ({"log_every": 0}, "log_every=0"),
        ({"save_every": 0}, "save_every=0"),
        ({"keep": 0}, "keep=0"),
        ({"precision": "fp61"}, "fp61"),
    ],
)
def test_a_wrong_keyword_is_told_before_anything_is_changed(options, message):
    model = model_of_vectors()
    before = copy.deepcopy(model.state_dict())

    with pytest.raises(ValueError, match=message):
        run(model, **options)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_something_that_is_no_log_is_refused():
    with pytest.raises(TypeError, match="fit got a str as log|fit got a int as log"):
        run(log=3)
