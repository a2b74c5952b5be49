"""run.json: what it says of a run, and what it does not say of a machine."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_data import make_model, write_rows
from torch import nn

import mmfuse
from mmfuse import Batch, Input
from mmfuse.data import load_batches, read_table
from mmfuse.losses import GivenWeights
from mmfuse.training import fit, run_record
from mmfuse.training.checkpoints.restore import require_same_settings
from mmfuse.training.run_record import command_line, describe, git_state, versions, write_run


def read(path):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_each_start_of_a_run_is_a_session_of_its_own(tmp_path, monkeypatch):
    write_run(tmp_path / "run", {"epochs": 3, "seed": 0})
    monkeypatch.setattr(run_record, "world", lambda: 2)

    path = write_run(tmp_path / "run", {"epochs": 5, "seed": 0, "resume": True})

    first, second = read(path)["sessions"]
    assert first["arguments"] == {"epochs": 3, "seed": 0}
    assert second["arguments"] == {"epochs": 5, "seed": 0, "resume": True}
    assert (first["processes"], second["processes"]) == (1, 2)
    assert os.listdir(tmp_path / "run") == ["run.json"]


def test_versions_and_hardware_are_written(tmp_path):
    (session,) = read(write_run(tmp_path, {}))["sessions"]

    assert session["versions"]["torch"] == torch.__version__
    assert session["versions"]["mmfuse"] == mmfuse.__version__
    assert session["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert session["hardware"]["threads"] == torch.get_num_threads()
    assert session["hardware"]["cores"] >= 1 and session["hardware"]["memory_gb"] > 0 and session["hardware"]["cpu"]
    assert session["started"].endswith("+00:00")


def test_gpus_are_written(monkeypatch):
    class Card:
        name, total_memory = "NVIDIA H100", 85_000_000_000

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Card)

    assert run_record.hardware()["gpus"] == [{"name": "NVIDIA H100", "memory_gb": 85.0}] * 2


def test_what_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(run_record, "PACKAGES", ("torch", "no-such-package"))

    assert versions()["no-such-package"] is None


def test_a_model_is_written_as_its_parts_and_how_they_were_built(tmp_path):
    model = make_model()
    loader = load_batches(read_table(write_rows(tmp_path)), model, train=True, batch_size=4)
    arguments = {"model": model, "train": loader, "weigh": GivenWeights({"kind": 2.0, "size": 0.5})}

    (session,) = read(write_run(tmp_path / "run", arguments))["sessions"]

    model_text, data = session["arguments"]["model"], session["arguments"]["train"]
    assert model_text["class"] == "MultimodalModel"
    assert model_text["parameters"] == sum(p.numel() for p in model.parameters()) == model_text["trained"]
    assert list(model_text["encoders"]) == ["image", "audio", "text"]
    assert model_text["encoders"]["audio"]["class"] == "SpectrogramEncoder"
    assert model_text["encoders"]["audio"]["arguments"] == {"dim": 32, "num_mels": 24}
    assert model_text["fusion"]["arguments"] == {"dims": {"image": 64, "audio": 32, "text": 64}, "dim": 32}
    assert model_text["tasks"]["kind"]["arguments"]["classes"] == ["kind0", "kind1", "kind2"]
    assert model_text["missing"] is None
    assert data["class"] == "Loader" and data["data"] == "train.csv"
    assert (data["rows"], data["batches"], data["batch_size"], data["shuffle"]) == (12, 3, 4, True)
    assert session["arguments"]["weigh"]["arguments"] == {"weights": {"kind": 2.0, "size": 0.5}}


def test_other_arguments_are_written_as_far_as_json_knows_them():
    class Rule:
        pass

    batch = Batch({"left": Input(torch.zeros(1, 2), torch.ones(1, dtype=torch.bool))})
    given = {
        "a": (1, 2.5, True, None, "x"),
        "b": Path("/home/somebody/runs/first"),
        "c": torch.device("cpu"),
        "d": test_gpus_are_written,
        "e": nn.Linear(2, 3),
        "f": [batch, batch],
        "g": list(range(1000)),
        "h": Rule(),
        "i": lambda step, values: None,
        "j": {"text": 3},
    }

    text = json.loads(json.dumps(describe(given)))

    assert text["a"] == [1, 2.5, True, None, "x"]
    assert text["b"] == "first"
    assert text["c"] == "cpu"
    assert text["d"] == {"function": "test_gpus_are_written"}
    assert text["e"] == {"class": "Linear", "parameters": 9, "trained": 9}
    assert text["f"] == {"class": "list", "length": 2}
    assert text["g"] == {"class": "list", "length": 1000}
    assert text["h"]["class"].endswith("Rule")
    assert text["i"]["function"].endswith("<lambda>")
    assert text["j"] == {"text": 3}


def test_what_is_not_finite_is_null(tmp_path):
    assert read(write_run(tmp_path, {"clip": math.inf}))["sessions"][0]["arguments"]["clip"] is None


def test_the_command_is_as_it_was_typed_but_for_secrets_and_the_folder_of_the_script():
    words = ["/home/somebody/train.py", "--epochs", "3", "--api-key", "a1b2", "--hf_token=c3", "x/y.csv", "--secret"]

    shown = ["train.py", "--epochs", "3", "--api-key", "***", "--hf_token=***", "x/y.csv", "--secret"]
    assert command_line(words) == shown
    assert command_line(["t.py", "--password", "--fast"]) == ["t.py", "--password", "--fast"]
    assert command_line([]) == []


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, "-C", folder, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_state_of_the_code_is_its_commit_and_whether_it_was_changed(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("1")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    (tmp_path / "notes.txt").write_text("not of the code")

    clean = git_state(tmp_path)
    (tmp_path / "train.py").write_text("2")
    changed = git_state(tmp_path)

    commit = git(tmp_path, "rev-parse", "HEAD")
    assert clean == {"commit": commit, "dirty": False}
    assert changed == {"commit": commit, "dirty": True}


def test_code_outside_of_git_and_a_machine_without_git_have_no_state(tmp_path, monkeypatch):
    assert git_state(tmp_path) is None

    monkeypatch.setenv("PATH", str(tmp_path))

    assert git_state(Path(__file__).parent) is None


def test_no_place_of_this_machine_is_written(tmp_path):
    model = make_model()
    loader = load_batches(read_table(write_rows(tmp_path)), model)
    arguments = {"model": model, "train": loader, "validation": loader, "folder": tmp_path / "run"}

    text = write_run(tmp_path / "run", arguments).read_text()

    assert str(tmp_path) not in text
    assert str(Path(__file__).parent) not in text
    assert os.uname().nodename not in text


@pytest.mark.plain
def test_a_run_json_that_is_none_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("what")

    with pytest.raises(ValueError, match="run.json in .* cannot be read"):
        write_run(tmp_path, {})


@pytest.mark.parametrize("part", ["checkpoints", "checkpoints/step-00000001", "best"])
def test_a_part_of_a_run_is_neither_gone_on_with_nor_loaded(tmp_path, part):
    table = read_table(write_rows(tmp_path, rows=4))
    model = make_model()
    options = {"epochs": 1, "resume": True, "progress": False}
    fit(model, list(load_batches(table, model, batch_size=4)), folder=tmp_path / "run", **options)

    with pytest.raises(ValueError, match=r"is a part of the run in .*run\. Expected the folder of a run"):
        fit(model, list(load_batches(table, model, batch_size=4)), folder=tmp_path / "run" / part, **options)
    with pytest.raises(ValueError, match=r"from which fit goes on.*Run fit again with resume=True"):
        mmfuse.load(tmp_path / "run")
    assert len(read(tmp_path / "run" / "run.json")["sessions"]) == 1


def test_a_checkpoint_from_before_a_setting_was_kept_says_nothing_of_it(tmp_path):
    require_same_settings(tmp_path, {"ema": None}, {"ema": None, "fp16": False})
    with pytest.raises(ValueError, match="fp16=True for False"):
        require_same_settings(tmp_path, {"ema": None, "fp16": False}, {"ema": None, "fp16": True})
