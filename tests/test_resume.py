"""A run that is stopped at any step, in any way, goes on bit for bit as if it had not been."""

import json
import os
import signal

import pytest
import torch
from processes import outcomes, run
from tiny_data import make_model, write_rows
from torch import nn
from torch.utils.data import DataLoader

from mmfuse import Batch, Features, Input, MultimodalModel, Target
from mmfuse.data import load_batches, read_table
from mmfuse.fusion import Concat
from mmfuse.losses import UncertaintyWeighting
from mmfuse.missing import ModalityDropout
from mmfuse.tasks import Classification, Regression
from mmfuse.training import History, Preempted, fit
from mmfuse.training.history import MEASURED

DIMS = {"left": 5, "right": 4}


class Noisy(nn.Module):
    """An encoder of vectors with dropout, which draws random numbers at every step."""

    pretrained = False

    def __init__(self, size):
        super().__init__()
        self.dim = 8
        self.layer = nn.Linear(size, 8)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Input) -> Features:
        return Features.from_pooled(self.dropout(self.layer(x.zeroed().values)), x.present)


def model_of_vectors():
    torch.manual_seed(0)
    encoders = {name: Noisy(size) for name, size in DIMS.items()}
    tasks = {"sort": Classification(8, 3), "size": Regression(8, mean=0.0, std=1.0)}
    return MultimodalModel(encoders, Concat(dict.fromkeys(DIMS, 8), 8), tasks, missing=ModalityDropout(0.3))


def samples(count=22):
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    inputs = {name: Input(draw(count, size), draw(count) < 0.8) for name, size in DIMS.items()}
    targets = {
        "sort": Target((draw(count) * 3).long(), draw(count) < 0.7),
        "size": Target(draw(count), draw(count) < 0.6),
    }
    return Batch(inputs, targets)


def rows_of(batch, rows):
    return Batch(
        {name: Input(x.values[rows], x.present[rows]) for name, x in batch.inputs.items()},
        {name: Target(x.values[rows], x.known[rows]) for name, x in batch.targets.items()},
    )


def shuffled(batch):
    """torch's own loader: its order comes from the global generator at the beginning of each epoch."""
    return DataLoader(
        range(len(batch.inputs["left"].present)),
        batch_size=4,
        shuffle=True,
        collate_fn=lambda rows: rows_of(batch, rows),
    )


class Interrupted(Exception):
    """Somebody pulled the plug."""


def stop_at(step, how):
    def log(now, _values):
        if now == step:
            how()

    return log


def pull_the_plug():
    raise Interrupted


def train(folder, **options):
    """A run with all that has a state; returns everything that has to be equal."""
    torch.set_num_threads(1)
    model, weigh = model_of_vectors(), UncertaintyWeighting(["sort", "size"])
    given = {"epochs": 3, "accumulate": 2, "ema": 0.9, "save_every": 1, "log_every": 1, "seed": 5, "progress": False}
    batch = samples()
    if folder is None:  # what has no use then is refused
        given.pop("save_every")
        options.pop("save_every", None)
    if folder is None and "log" not in options:
        given.pop("log_every")
    given |= {"train": shuffled(batch), "validation": [rows_of(batch, list(range(8)))], "weigh": weigh}
    history = fit(model, folder=folder, resume=folder is not None, **given | options)
    return {**model.state_dict(), **weigh.state_dict()}, told(history.epochs)


def told(epochs):
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in epochs]


def require_same(found, expected):
    for name, value in expected[0].items():
        assert torch.equal(found[0][name], value), name
    assert found[1] == expected[1]


@pytest.mark.parametrize(("precision", "steps"), [("float32", range(1, 10)), ("bf16", (2, 6))])
def test_a_crash_at_any_step_changes_nothing(tmp_path, precision, steps):
    expected = train(None, precision=precision)  # 6 batches an epoch, 3 steps

    for step in steps:
        with pytest.raises(Interrupted):
            train(tmp_path / str(step), precision=precision, log=stop_at(step, pull_the_plug))
        require_same(train(tmp_path / str(step), precision=precision), expected)


def test_crashes_at_every_step_of_one_run_change_nothing(tmp_path):
    expected = train(None)

    for step in range(2, 10):
        with pytest.raises(Interrupted):
            train(tmp_path, log=stop_at(step, pull_the_plug))

    require_same(train(tmp_path), expected)


def test_a_negative_control_finds_a_run_that_is_not_the_same():
    with pytest.raises(AssertionError):
        require_same(train(None, seed=6), train(None))


def test_a_run_that_keeps_a_checkpoint_now_and_then_goes_back_to_it(tmp_path):
    expected = train(None)
    with pytest.raises(Interrupted):
        train(tmp_path, save_every=4, log=stop_at(6, pull_the_plug))

    require_same(train(tmp_path, save_every=4), expected)

    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "epoch" not in line] == list(range(1, 10))
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3]


@pytest.mark.parametrize("workers", [(0, 0), (2, 1)])
def test_batches_of_a_table_go_on_with_any_number_of_workers(tmp_path, workers):
    table = read_table(write_rows(tmp_path))

    def run_table(folder, count, **options):
        torch.set_num_threads(1)
        model = make_model()
        batches = load_batches(table, model, train=True, batch_size=2, workers=count, seed=2)
        given = {"epochs": 2, "accumulate": 4, "progress": False}
        kept = {"folder": folder, "resume": True, "save_every": 1, "log_every": 1} if folder else {}
        history = fit(model, batches, **given | kept | options)
        return model.state_dict(), told(history.epochs)

    expected = run_table(None, 0)
    for step in (1, 2, 3):
        folder = tmp_path / f"run{step}"
        with pytest.raises(Interrupted):
            run_table(folder, workers[0], log=stop_at(step, pull_the_plug))
        require_same(run_table(folder, workers[1]), expected)


def test_rows_that_could_not_be_read_before_count_after_it_too(tmp_path):
    path = write_rows(tmp_path)
    path.write_text(path.read_text().replace("0.png", "none.png"))
    table = read_table(path)

    def run_table(**options):
        model = make_model()
        batches = load_batches(table, model, train=True, batch_size=2, seed=2, on_error="absent")
        given = {"epochs": 1, "save_every": 1, "log_every": 1, "progress": False}
        fit(model, batches, folder=tmp_path / "run", resume=True, **given | options)
        return batches.dataset.report

    with pytest.raises(Interrupted):
        run_table(log=stop_at(6, pull_the_plug))

    with pytest.warns(UserWarning, match="1 cells could not be read"):
        report = run_table()
    assert report.rows == [0]


def test_a_run_that_is_killed_goes_on(tmp_path):
    """SIGKILL while a checkpoint is being written in the background."""
    expected = train(None)

    for step in (2, 5, 8):
        (ended,) = outcomes(
            1,
            lambda at=step: train(tmp_path, log=stop_at(at, lambda: os.kill(os.getpid(), signal.SIGKILL))),
            meet=False,
        )
        assert ended.code == -signal.SIGKILL

    require_same(train(tmp_path), expected)


def test_an_epoch_that_ends_several_times_has_one_line(tmp_path):
    """Stopped after its last step, then killed when its line stands and no checkpoint knows of it."""

    def fail_at_its_end(_step, values):
        if "epoch" in values:
            raise Interrupted

    with pytest.raises(Preempted, match="after step 3"):
        train(tmp_path, save_every=None, log=stop_at(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(tmp_path, log=fail_at_its_end)

    require_same(train(tmp_path), train(None))

    assert [row["epoch"] for row in History.load(tmp_path).epochs] == [1, 2, 3]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_after_its_step_with_all_saved(tmp_path, number, code):
    expected = train(None)

    (ended,) = outcomes(
        1,
        lambda: train(tmp_path, save_every=None, log=stop_at(4, lambda: os.kill(os.getpid(), number))),
        meet=False,
    )

    assert ended.code == code
    assert "stopped the run after step" in str(ended.error)
    require_same(train(tmp_path), expected)


def test_a_signal_in_validation_saves_what_was_trained_and_validates_again(tmp_path):
    expected = train(None)

    class Signalled(list):
        def __iter__(self):
            history = tmp_path / "run" / "history.jsonl"
            if history.exists() and history.read_text().count('"epoch"') == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            return super().__iter__()

    validation = [rows_of(samples(), list(range(8)))]
    with pytest.raises(Preempted, match="SIGUSR1 stopped the run after step 6") as stopped:
        train(tmp_path / "run", validation=Signalled(validation), save_every=None)

    assert stopped.value.code == 143
    require_same(train(tmp_path / "run"), expected)


def test_a_second_interrupt_ends_at_once(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, log=stop_at(4, twice))

    require_same(train(tmp_path), train(None))


def test_a_signal_without_a_folder_says_that_nothing_is_kept():
    with pytest.raises(Preempted, match="SIGTERM stopped the run after step 5, whose state is lost: fit got no folder"):
        train(None, log=stop_at(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_to_one_process_stops_all_after_the_same_step(tmp_path):
    def work():
        from mmfuse.distributed import rank

        batch = samples()
        mine = [rows_of(batch, list(range(start, start + 2))) for start in range(2 * rank(), 20, 4)]
        how = stop_at(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(tmp_path, train=mine, save_every=None, log=how)

    ended = outcomes(2, work)

    assert [each.code for each in ended] == [143, 143], ended[0].log + ended[1].log
    assert len({str(each.error) for each in ended}) == 1


def test_two_processes_go_on_as_two(tmp_path):
    def work(folder, stop):
        from mmfuse.distributed import rank

        batch = samples()
        mine = [rows_of(batch, list(range(start, start + 2))) for start in range(2 * rank(), 20, 4)]
        return train(folder, train=mine, log=stop_at(stop, lambda: os.kill(os.getpid(), signal.SIGTERM)))

    expected, same = run(2, work, None, -1)
    require_same(same, expected)
    assert [each.code for each in outcomes(2, work, tmp_path, 3)] == [143, 143]

    for found in run(2, work, tmp_path, -1):
        require_same(found, expected)
