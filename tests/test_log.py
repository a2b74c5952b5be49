"""Logs: JSON Lines that survive a kill and a resume, and functions of the user's."""

import json
import math
import os
import signal

import pytest

from mmfuse.training import JsonLines
from mmfuse.training.log import Logs, read_lines


def test_each_call_is_a_line_of_strict_json(tmp_path):
    log = JsonLines(tmp_path / "run" / "history.jsonl")

    log(1, {"step/loss": 0.5})
    log(2, {"step/loss": math.nan, "step/size/loss": math.inf})

    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"step": 1, "step/loss": 0.5},
        {"step": 2, "step/loss": None, "step/size/loss": None},
    ]


def test_a_log_goes_on_in_the_same_file(tmp_path):
    JsonLines(tmp_path / "x.jsonl")(1, {"a": 1.0})

    JsonLines(tmp_path / "x.jsonl")(2, {"a": 2.0})

    assert [line["a"] for line in read_lines(tmp_path / "x.jsonl")] == [1.0, 2.0]


def test_what_comes_after_a_step_is_dropped_when_a_run_goes_on_from_there(tmp_path):
    log = JsonLines(tmp_path / "x.jsonl")
    for step in range(5):
        log(step, {"a": 0.1 * step})
    before = (tmp_path / "x.jsonl").read_bytes().splitlines(keepends=True)

    log.keep_until(2)
    kept = (tmp_path / "x.jsonl").read_bytes()
    log(3, {"a": 0.5})

    assert kept == b"".join(before[:3])
    assert read_lines(tmp_path / "x.jsonl")[-1] == {"step": 3, "a": 0.5}
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_a_log_that_never_wrote_has_nothing_to_drop(tmp_path):
    JsonLines(tmp_path / "x.jsonl").keep_until(3)

    assert not (tmp_path / "x.jsonl").exists()


def test_a_failure_while_lines_are_dropped_leaves_all_of_them(tmp_path, monkeypatch):
    log = JsonLines(tmp_path / "x.jsonl")
    log(1, {"a": 1.0})
    log(2, {"a": 1.0})
    before = (tmp_path / "x.jsonl").read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        log.keep_until(1)

    assert (tmp_path / "x.jsonl").read_bytes() == before
    assert os.listdir(tmp_path) == ["x.jsonl"]


@pytest.mark.parametrize("torn", ['{"step": 3, "a', '{"step": 3}', "{"])
def test_a_line_that_a_kill_has_torn_is_mended(tmp_path, torn):
    path = tmp_path / "x.jsonl"
    JsonLines(path)(1, {"a": 1.0})
    with path.open("a") as file:
        file.write(torn)

    read = read_lines(path)
    JsonLines(path)(2, {"a": 2.0})

    assert read == [{"step": 1, "a": 1.0}]
    assert [line["step"] for line in read_lines(path)] == [1, 2]


def test_a_process_that_is_killed_loses_no_line(tmp_path):
    child = os.fork()
    if not child:
        JsonLines(tmp_path / "x.jsonl")(7, {"a": 1.0})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)

    assert read_lines(tmp_path / "x.jsonl") == [{"step": 7, "a": 1.0}]


@pytest.mark.plain
@pytest.mark.parametrize("line", ["what", "[1]", '{"a": 2}', '{"step": "one"}'])
def test_a_line_that_is_none_of_ours_is_named(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')

    with pytest.raises(ValueError, match="Line 2 of x.jsonl .* Expected a JSON object with a step"):
        JsonLines(path).keep_until(1)


def test_several_logs_are_told_the_same(tmp_path):
    told = []

    class Own:
        def __call__(self, step, values):
            told.append((step, dict(values)))

        def keep_until(self, step):
            told.append(step)

        def close(self):
            told.append("closed")

    logs = Logs([Own(), lambda step, values: told.append(step)], tmp_path / "x.jsonl")
    logs(1, {"a": 1.0})
    logs.keep_until(0)
    logs.close()

    assert told == [(1, {"a": 1.0}), 1, 0, "closed"]
    assert read_lines(tmp_path / "x.jsonl") == []


def test_one_log_is_given_as_it_is():
    told = []

    Logs(lambda step, values: told.append(step))(4, {})

    assert told == [4]
    assert Logs().logs == []


@pytest.mark.plain
def test_what_cannot_be_called_is_no_log():
    with pytest.raises(TypeError, match="fit got a str as log. Expected a function of step and numbers, or several."):
        Logs(["tensorboard"])


@pytest.mark.plain
def test_one_thing_that_is_no_log_is_refused_too():
    with pytest.raises(TypeError, match="fit got a int as log."):
        Logs(3)
