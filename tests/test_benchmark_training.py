"""The benchmark of training: what is the same on every machine is asserted, times are not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_absent
import training_checkpoints
import training_counts
import training_digits
import training_loops
import training_models
import training_padding
import training_processes
import training_steps
import training_turns
from data_measure import Setting

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "training.py"
pytestmark = pytest.mark.plain


@pytest.fixture
def quick(tmp_path):
    return Setting(tmp_path, True, 3)


def test_a_step_waits_for_its_device_once_beyond_the_model(quick):
    rows = training_counts.waits(quick)

    assert [row.ratio for row in rows] == [1, 1]


def test_steps_leave_no_tensor_behind_and_one_that_does_is_found():
    kept = []

    def keeping(model, batches):
        for batch in batches:
            kept.append(model(batch).predictions["label"])  # 32 samples, 5 classes, float32, and its graph

    assert training_counts.tensor_growth(training_loops.silent_fit, *training_models.nothing()) == 0
    assert training_counts.tensor_growth(training_loops.by_train_epoch, *training_models.three_modalities(size=2)) == 0
    assert training_counts.tensor_growth(keeping, *training_models.nothing()) >= 32 * 5 * 4


def test_a_wait_is_found_wherever_it_is():
    def reading(model, batches):
        for batch in batches:
            logits = model(batch).predictions["label"].detach()
            assert logits[0, 0].item() == logits.tolist()[0][0] == logits[logits == logits[0, 0]][0]

    # item, tolist, the mask of an index, and the truth of the comparison with a tensor
    assert training_counts.waits_per_step(reading, *training_models.nothing()) == 4


def test_only_what_is_trained_travels(quick):
    rows = training_processes.traffic(quick)

    assert [row.ratio for row in rows] == [1, 1]
    assert rows[1].ours < rows[0].ours


def test_padding_is_below_its_limits_on_all_distributions(quick):
    rows = training_padding.padding(quick)

    assert len(rows) == 12
    assert [row.name for row in rows if not row.met] == []
    assert {row.name for row in rows if row.ours > (8 if "text and sound" in row.name else 5)} == set()


def test_digits_are_learned_with_the_losses_of_a_loop_by_hand_bit_for_bit(quick):
    different, time = training_digits.digits(quick)

    assert different.ours == 0
    assert "4 and 4 epochs" in time.note  # to 95 %


def test_a_checkpoint_holds_what_is_trained_and_little_else(quick):
    _, written = training_checkpoints.checkpoints(quick)

    assert 1 < written.ratio < 1.01


def test_loops_take_turns_and_an_error_in_one_ends_all():
    order = []

    def loop(name):
        def run(batches):
            for number in batches:
                order.append(f"{name}{number}")

        return run

    seconds = training_turns.in_turns({"a": loop("a"), "b": loop("b")}, [0, 1, 2], rounds=2, steps=2)

    assert order == ["a0", "a1", "b0", "b1", "b2", "b0", "a2", "a0", "a1", "a2", "b1", "b2"]
    assert [len(each) for each in seconds.values()] == [2, 2]

    def failing(batches):
        next(iter(batches))
        raise ZeroDivisionError("in its thread")

    with pytest.raises(ZeroDivisionError, match="in its thread"):
        training_turns.in_turns({"a": loop("a"), "b": failing}, [0, 1, 2], rounds=2, steps=2)


def test_all_loops_learn_the_same():
    model, batches = training_models.nothing()
    trained = {}
    for name, loop in training_loops.loops_of(model).items():
        loop(batches * 3)
        trained[name] = loop.args[0].state_dict()

    for name, weights in trained["hand-written"].items():
        torch.testing.assert_close(trained["train_epoch"][name], weights, rtol=0, atol=1e-6)
    assert not torch.equal(trained["naive"]["tasks.label.classify.weight"], model.tasks["label"].classify.weight)


@pytest.mark.parametrize("part", [training_steps, training_absent])
def test_times_of_the_small_sizes_have_no_target(quick, part, monkeypatch):
    monkeypatch.setattr(training_steps, "in_turns", lambda loops, *_, **__: {name: [1.0] * 3 for name in loops})

    rows = [row for case in part.CASES.values() for row in case(quick)]

    assert rows
    assert all(row.target is None for row in rows)


def test_it_runs_as_a_user_runs_it_and_writes_for_people_and_machines(tmp_path):
    command = [sys.executable, str(BENCHMARK), "--quick", "--only", "^padding$"]
    files = ["--json", str(tmp_path / "rows.json"), "--markdown", str(tmp_path / "page.md")]

    done = subprocess.run(
        [*command, *files], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )

    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all({"name", "ours", "other", "ratio", "target", "met"} <= set(row) for row in rows)
    assert all(f"| {row['name']}" in (tmp_path / "page.md").read_text() for row in rows)
    assert "12 targets met, 0 missed" in done.stdout
