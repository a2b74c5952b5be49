"""The comparison of the methods, run as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "comparison.py"
OWN = """
from mmfuse import recorded
from mmfuse.fusion import Concat
from torch import nn


@recorded
class MyFusion(nn.Module):
    def __init__(self, dims, dim):
        super().__init__()
        self.inner = Concat(dims, dim)

    def forward(self, features):
        return self.inner(features)
"""
pytestmark = pytest.mark.plain


def run(folder, *arguments):
    command = [sys.executable, str(SCRIPT), "--quick", "--folder", str(folder / "kept"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_methods_of_all_kinds_and_one_of_ones_own_are_compared(tmp_path):
    (tmp_path / "my_fusion.py").write_text(OWN)
    wanted = ("--methods", "^(MUTAN|LateFusion|EvidentialFusion|MyFusion)$", "--own", tmp_path / "my_fusion.py")
    outputs = ("--json", tmp_path / "table.json", "--markdown", tmp_path / "page.md")

    first = run(tmp_path, *wanted, *outputs)
    again = run(tmp_path, *wanted, "--json", tmp_path / "again.json")

    assert first.returncode == 0, first.stderr
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    names = {row["name"] for row in rows}
    for method in ("MUTAN", "LateFusion", "EvidentialFusion", "MyFusion", "late mean"):
        assert f"synthetic synergy: {method}" in names
    assert all(0 < row["ours"] <= 1 and row["ratio"] == pytest.approx(row["ours"] / row["other"]) for row in rows)
    assert "| [`MUTAN`](fusion.md#mutan) |" in (tmp_path / "page.md").read_text()
    assert "seed 0: MUTAN" in first.stdout
    assert "seed 0: MUTAN" not in again.stdout, "what is finished is not done again"
    assert json.loads((tmp_path / "again.json").read_text())["rows"] == rows


def test_a_file_that_is_not_there_is_named(tmp_path):
    done = run(tmp_path, "--own", tmp_path / "nothing.py")

    assert done.returncode != 0
    assert "nothing.py is no Python file. Expected one with fusion classes. Check the path." in done.stderr
