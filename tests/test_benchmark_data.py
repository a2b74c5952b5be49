"""The benchmark of the data path, run as a user runs it. Times are not asserted: they differ by machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "data.py"
GOALS = {
    "memory of a worker",
    "memory of streaming shards",
    "start with a table",
    "images 500x375",
    "images 1920x1080",
    "video",
    "sound, wav",
    "sound, wav, without soxr",
    "features in memory",
    "text",
    "tabular",
    "series",
    "loading images",
    "loading sound",
    "training on images",
}
pytestmark = pytest.mark.plain


def run(*arguments):
    command = [sys.executable, str(BENCHMARK), "--quick", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    for module in ("av", "soxr"):
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp("benchmark")
    done = run("--json", folder / "data.json", "--markdown", folder / "data.md")
    assert "targets met" in done.stdout
    rows = json.loads((folder / "data.json").read_text())["rows"]
    return {row["name"]: row for row in rows}, (folder / "data.md").read_text()


def test_every_goal_has_a_row_for_people_and_for_machines(made):
    rows, page = made

    assert {goal for goal in GOALS if not any(name.startswith(goal) for name in rows)} == set()
    assert all({"name", "ours", "other", "ratio", "target", "met"} <= set(row) for row in rows.values())
    assert [name for name in rows if f"| {name}" not in page] == []


def test_the_memory_of_workers_does_not_grow_with_the_rows(made):
    rows, _ = made

    grown = {name: row["ours"] - row["other"] for name, row in rows.items() if name.startswith("memory of a worker")}
    assert len(grown) == 1
    assert max(grown.values()) < 1.5  # MiB; the table of 30,000 rows has as many, and as Python objects five times that


def test_only_some_cases_run_if_asked_for(tmp_path):
    run("--only", "^tabular$", "--json", tmp_path / "data.json")

    (row,) = json.loads((tmp_path / "data.json").read_text())["rows"]
    assert row["name"].startswith("tabular")
