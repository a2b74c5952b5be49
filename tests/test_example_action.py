"""The example on actions, run as a user runs it, on a few made recordings in the format of UTD-MHAD."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from action_recognition import TEST, TRAIN, split_people
from action_recognition_data import read_recordings

from mmfuse import load

SCRIPT = Path(__file__).parent.parent / "examples" / "action_recognition.py"
ACTIONS, PEOPLE, TRIALS = (0, 2, 7), range(1, 9), 3  # swipe left, wave, draw x
pytestmark = pytest.mark.plain


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def make_recordings(folder):
    """An arm goes out low, low or high, a wrist swings slow, fast or fast: only both together tell the three apart."""
    random = np.random.default_rng(0)
    cells = [(kind, action, who) for kind, action in enumerate(ACTIONS) for who in PEOPLE for _ in range(TRIALS)]
    series = {"inertial": [], "skeleton": []}
    depth = np.zeros((len(cells), 16, 60, 80), dtype=np.uint8)
    for row, (kind, _, _) in enumerate(cells):
        high, fast = kind == 2, kind > 0
        depth[row, :, 15:58, 34:44] = 175  # body
        for frame in range(16):
            reach = 44 + round(12 * np.sin(np.pi * frame / 15))
            depth[row, frame, 18 + 18 * high : 22 + 18 * high, 44:reach] = 165 + random.integers(3)
        for name, shape in {"inertial": (6,), "skeleton": (20, 3)}.items():
            steps = np.arange(random.integers(40, 60))
            swing = np.sin(steps * (0.15 + 0.5 * fast) + random.uniform(0, 6)).reshape(-1, *[1] * len(shape))
            series[name].append((swing + 0.1 * random.standard_normal((len(steps), *shape))).astype(np.float32))
    offsets = {f"{name}_offset": np.cumsum([0, *map(len, parts)]) for name, parts in series.items()}
    joined = {name: np.concatenate(parts) for name, parts in series.items()}
    labels = {"action": np.array([action for _, action, _ in cells]), "subject": np.array([who for *_, who in cells])}
    np.savez(folder / "utd_mhad.npz", **joined, **offsets, **labels)
    np.savez(folder / "depth_16x60x80.npz", depth=depth)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("actions")
    make_recordings(folder)
    done = run("--data", folder, "--folder", folder, "--quick", "--epochs", 15, "--json", folder / "table.json")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_depth_and_inertial_sensors_fused_beat_each_alone(trained):
    folder, printed = trained
    accuracy = {row["model"]: row["accuracy"] for row in json.loads((folder / "table.json").read_text())}

    assert "36 recordings to train, 36 of other people to test" in printed
    assert set(accuracy) == {"only depth", "only inertial", "Concat"}
    assert accuracy["Concat"] > 0.8  # chance: a third
    assert accuracy["Concat"] > max(accuracy["only depth"], accuracy["only inertial"]) + 0.1


def test_the_table_has_our_numbers_beside_the_published_ones(trained):
    folder, printed = trained
    fused = json.loads((folder / "table.json").read_text())[-1]

    without = "  ".join(f"{name} {share:.1%}" for name, share in fused["without"].items())

    assert f"{fused['accuracy']:.1%}" in printed
    assert without in printed
    assert set(fused["without"]) == {"depth", "inertial"}
    assert "Chen, Jafari, Kehtarnavaz, ICIP 2015 depth, inertial               79.1%      known" in printed


def test_the_saved_model_answers(trained):
    folder, printed = trained

    model = load(folder / "model")

    assert model.tasks["action"].classes == ["draw x", "swipe left", "wave"]
    assert len(model.encoders["inertial"].transform().mean) == 6  # the statistics of the training people
    assert model.encoders["depth"].frame_encoder.mean != [0.485, 0.456, 0.406]
    for seen in ("depth and inertial", "depth", "inertial"):
        assert any(line.startswith(f"{seen} ") and "-> " in line for line in printed.splitlines())


@pytest.mark.parametrize("chosen", TRAIN)
def test_settings_are_chosen_without_the_people_of_the_test(tmp_path, chosen):
    make_recordings(tmp_path)
    table = read_recordings(tmp_path)

    train, held = split_people(table, choose=chosen)

    assert set(held.column("subject")) == {chosen}
    assert set(train.column("subject")) == set(TRAIN) - {chosen}
    assert not set(TRAIN) & set(TEST)
