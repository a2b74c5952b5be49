"""The benchmarks, run as a user runs them. No time is asserted: only what is the same on every machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmfuse.fusion import FUSIONS

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SAME_EVERYWHERE = (
    "difference from plain",
    "breaks in its graph",
    "compiled again over 8 lengths",
    "leak between samples",
)
KINDS = (*SAME_EVERYWHERE, "time", "time over its matrix products", "peak memory", "kernels")
pytestmark = pytest.mark.plain


def run(script, *arguments):
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    written = tmp_path_factory.mktemp("benchmarks") / "fusion.json"
    done = run("fusion.py", "--quick", "--json", written)
    assert done.returncode == 0, done.stderr
    assert "targets met" in done.stdout
    return {row["name"]: row for row in json.loads(written.read_text())["rows"]}


@pytest.mark.parametrize("name", FUSIONS)
def test_a_method_equals_plain_compiles_whole_and_mixes_no_samples(rows, name):
    found = {kind: rows[f"{name}: {kind}"] for kind in KINDS}

    assert all({"name", "ours", "other", "ratio", "target", "met"} <= set(row) for row in found.values())
    assert {kind: found[kind]["ratio"] for kind in SAME_EVERYWHERE if not found[kind]["met"]} == {}


@pytest.mark.parametrize("goal", ["G7 MulT", "G10 encoder as FLAVA"])
def test_kernels_stay_below_their_limit(rows, goal):
    limits = {name: row for name, row in rows.items() if goal in name and "kernels at most" in name}

    assert len(limits) == 2
    assert {name: row["ours"] for name, row in limits.items() if not row["met"]} == {}


def test_a_method_without_a_plain_counterpart_is_named(tmp_path):
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from fusion_cases import plain_of
from torch import nn
class Nobody(nn.Module): pass
plain_of(Nobody)
"""
    done = subprocess.run([sys.executable, "-c", code, str(BENCHMARKS)], capture_output=True, text=True)

    assert done.returncode != 0
    assert "Nobody has no plain counterpart to be measured against. Expected nobody or" in done.stderr
