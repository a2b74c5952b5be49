"""The benchmarks, run as a user runs them. No time is asserted: only what is the same on every machine."""

import importlib
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


@pytest.fixture
def joining(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("joining"), importlib.import_module("fusion_page"), importlib.import_module("common")


def written(common, path, *, time, quick=False):
    rows = [common.Row(f"Concat: {kind}", time, 2.0, time / 2.0, 1.05) for kind in KINDS]
    rows.append(common.Row("G12 Concat: time", time, 2.0, time / 2.0, 1.0))
    common.report(rows, to=path, quick=quick)
    return path


def test_a_page_is_joined_of_runs_that_measured_parts_and_a_later_run_counts(joining, tmp_path):
    joining, fusion_page, common = joining
    files = [written(common, tmp_path / f"{time}.json", time=time) for time in (3.0, 1.0)]

    page = fusion_page.page(joining.rows_of(files), FUSIONS, ["G12 Concat"], joined=2)

    assert "in 2 runs of parts" in page
    assert "| Concat | 0.50 | 0.50 | 1, 2 | 0.50 | 0.5 | 0.5 |" in page
    assert "| G12 Concat: time | 1 ms | 2 ms | 0.50 | 1 | yes |" in page


def test_what_is_no_whole_run_of_this_machine_is_not_joined(joining, tmp_path):
    joining, _, common = joining
    quick = written(common, tmp_path / "quick.json", time=1.0, quick=True)
    (tmp_path / "text.json").write_text("no rows")

    with pytest.raises(SystemExit, match=r"quick.json is of \{'quick': True.* Expected \{'quick': False.* again"):
        joining.rows_of([quick])
    with pytest.raises(SystemExit, match=r"text.json holds no rows: .* Expected a file that --json wrote"):
        joining.rows_of([tmp_path / "text.json"])


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


def test_parity_is_compared(tmp_path):
    written, page = tmp_path / "parity.json", tmp_path / "parity.md"

    done = run("parity.py", "--quick", "--methods", "^(Concat|WeightedAverage)$", "--json", written, "--markdown", page)

    assert done.returncode == 0, done.stderr
    assert {row["name"] for row in json.loads(written.read_text())["rows"]} == {
        "parity: Concat",
        "parity: WeightedAverage",
    }
    assert "[`Concat`](fusion.md#concat)" in page.read_text()
