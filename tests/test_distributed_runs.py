"""Runs of several processes that are stopped, killed, restarted or wrong from the beginning."""

import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import outcomes, run
from tiny_numbers import make_model, table_of
from torch import Tensor

from mmfuse.contracts import Batch
from mmfuse.data import load_batches
from mmfuse.distributed import rank, world
from mmfuse.training import NonFiniteError, fit

pytestmark = pytest.mark.filterwarnings("ignore:.* rows have no modality at all")
SETTINGS: dict[str, Any] = {"epochs": 2, "save_every": 1, "progress": False, "device": "cpu", "resume": True}


class Dying:
    """A rule that looks at each step, and at one of them does something to one process."""

    def __init__(self, step: int, act: Any, on: int = 1) -> None:
        self.left, self.act, self.on = step, act, on

    def __call__(self, *_: Any) -> None:
        self.left -= 1
        if not self.left and rank() == self.on:
            self.act()


NEVER = (Dying(-1, print),)  # as many rules, so that a run that goes on is told of no other


def train(folder: Path, balance: tuple = NEVER) -> dict[str, Tensor]:
    """The weights after a run of six steps."""
    model, table = make_model(), table_of(24)
    batches = load_batches(table, model, train=True, batch_size=8 // world(), max_errors=1.0)
    fit(model, batches, load_batches(table, model, max_errors=1.0), folder=folder, balance=balance, **SETTINGS)
    return model.state_dict()


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory):
    """What a run imports is imported once, and not in every process."""
    train(tmp_path_factory.mktemp("warm"))


def signal_myself() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def stopped(folder: Path) -> None:
    train(folder, (Dying(2, signal_myself),))


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_the_run_goes_on_bit_for_bit(tmp_path):
    expected = run(2, train, tmp_path / "whole")

    ended = outcomes(2, stopped, tmp_path / "stopped")
    found = run(2, train, tmp_path / "stopped")

    assert [each.code for each in ended] == [143, 143], [each.log for each in ended]
    for weights, same in zip(found, expected, strict=True):
        for name, value in same.items():
            assert torch.equal(weights[name], value), name


def go_on(folder: Path, strategy: str, balance: tuple = NEVER) -> tuple[dict[str, Tensor], list[dict]]:
    """Weights and history of a run with joint batches of twelve, on any number of processes."""
    model, table = make_model(), table_of(60)
    batches = load_batches(table, model, train=True, batch_size=12 // world(), max_errors=1.0)
    history = fit(model, batches, folder=folder, balance=balance, strategy=strategy, **SETTINGS)
    whole = {
        n: value.full_tensor() if hasattr(value, "full_tensor") else value for n, value in model.state_dict().items()
    }
    return whole, history.epochs


def test_a_run_goes_on_with_other_numbers_of_processes_and_another_strategy(tmp_path):
    (expected, history), *_ = run(1, go_on, tmp_path / "whole", "auto")

    for began, first, ended, then in ((2, "ddp", 3, "fsdp"), (2, "fsdp", 1, "auto"), (2, "fsdp", 3, "ddp")):
        folder = tmp_path / f"{first}-{then}-{ended}"
        stopped = outcomes(began, go_on, folder, first, (Dying(3, signal_myself),))
        assert [each.code for each in stopped] == [143] * began, stopped[0].log
        for weights, rows in run(ended, go_on, folder, then):
            for name, value in expected.items():
                torch.testing.assert_close(weights[name], value, rtol=1e-10, atol=1e-10, msg=name)
            for row, same in zip(rows, history, strict=True):
                assert row["train/loss"] == pytest.approx(same["train/loss"], rel=1e-10)


def with_nan(batches: list[Batch], strategy: str, on_nonfinite: str) -> float:
    own = batches[rank() :: 2]
    if rank() == 1:
        given = own[1].inputs["a"]
        values = given.values.masked_fill(given.present[:, None], float("nan"))
        own[1] = replace(own[1], inputs={**own[1].inputs, "a": replace(given, values=values)})
    settings = {"epochs": 1, "strategy": strategy, "on_nonfinite": on_nonfinite, "progress": False, "device": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(make_model(), own, **settings).epochs[0]["train/loss"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_what_is_not_finite_on_one_process_stops_all_and_is_named_or_is_skipped_by_all(strategy):
    batches = list(load_batches(table_of(24), make_model(), batch_size=3))

    first, second = outcomes(2, with_nan, batches, strategy, "raise", waits=10.0)

    assert type(first.error) is type(second.error) is NonFiniteError
    assert "Step 2: " in str(second.error)
    assert "the input 'a'" in str(second.error)
    assert len(set(map(str, run(2, with_nan, batches, strategy, "skip")))) == 1


def raises() -> None:
    raise KeyError("a rule of mine")


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("act", [raises, is_killed])
def test_a_fault_in_one_process_of_a_run_ends_it_and_is_named(tmp_path, act):
    first, second = outcomes(2, with_fault, tmp_path, act, waits=5.0)

    assert first.code == 1
    assert second.code == (1 if act is raises else -9)
    said = "Rank 1 of 2 has failed: KeyError: 'a rule of mine'" if act is raises else "Rank 1 of 2 gave no sign"
    assert said in first.log
    assert max(first.seconds, second.seconds) < 5 + 5 + 5  # the time to begin with


def with_fault(folder: Path, act: Any) -> None:
    train(folder, (Dying(3, act),))


def with_a_bad_row(folder: Path) -> None:
    model, table = make_model(), table_of(24)
    cells = table.column("a")
    cells[5] = [1.0]
    fit(model, load_batches(table.with_column("a", cells), model, batch_size=4), folder=folder, **SETTINGS)


def test_a_row_that_one_process_cannot_read_ends_all(tmp_path):
    ended = outcomes(2, with_a_bad_row, tmp_path)

    assert [each.code for each in ended] == [1, 1]
    assert all("row 5 of the mapping, column 'a': The features of a sample have shape (1,)" in e.log for e in ended)


def of_batches(batches: list[Batch], kind: str) -> None:
    own = {"same": batches, "unequal": batches[: 2 + rank()], "other": batches[rank() :: 2]}[kind]
    fit(make_model(), own, epochs=1, progress=False, device="cpu")


@pytest.mark.plain
def test_batches_that_are_not_cut_among_the_processes_are_refused_by_all():
    batches = list(load_batches(table_of(12), make_model(), batch_size=2))

    for each in outcomes(2, of_batches, batches, "same"):
        assert "All 2 processes would train on the same batches: a list is not cut among them." in str(each.error)
    for each in outcomes(2, of_batches, batches, "unequal"):
        assert "The processes have [2, 3] batches to train on. Expected equal numbers." in str(each.error)
    run(2, of_batches, batches, "other")


SCRIPT = """
import os, sys
from pathlib import Path

sys.path.insert(0, {tests!r})
import torch
from mmfuse.distributed import is_main
from safetensors.torch import save_file
from test_distributed_runs import NEVER, Dying, train

torch.set_num_threads(1)
folder = Path({folder!r})
attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
state = train(folder / "run", (Dying(4, lambda: os._exit(9)),) if attempt == 0 else NEVER)
if is_main():
    save_file(state, folder / f"weights-{{attempt}}.safetensors")
"""


def test_torchrun_restarts_a_run_that_crashed_and_it_ends_bit_for_bit_as_if_it_had_not(tmp_path):
    expected, _ = run(2, train, tmp_path / "whole")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]

    done = subprocess.run([*command, str(script)], capture_output=True, text=True, timeout=240, check=False)

    from safetensors.torch import load_file

    assert done.returncode == 0, done.stderr[-4000:]
    found = load_file(tmp_path / "weights-1.safetensors")
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
