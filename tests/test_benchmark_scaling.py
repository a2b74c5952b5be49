"""The benchmark of scaling, run as a user runs it. What is counted is asserted; times never."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "scaling.py"
pytestmark = pytest.mark.plain


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    page = folder / "scaling.md"
    page.write_text((ROOT / "docs" / "scaling.md").read_text())
    done = run("--quick", "--json", folder / "rows.json", "--markdown", page)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads((folder / "rows.json").read_text())["rows"]}, page


def rows_of(made, begin):
    return {name: row for name, row in made[0].items() if name.startswith(begin)}


def test_every_number_that_is_promised_is_kept(made):
    assert {name: row["ratio"] for name, row in made[0].items() if row["met"] is False} == {}
    assert sum(row["met"] is True for row in made[0].values()) >= 19


@pytest.mark.parametrize("world", [1, 2, 4])
def test_each_process_holds_all_under_ddp_and_its_part_under_fsdp(made, world):
    (ddp,) = rows_of(made, f"ddp, {world} process").values()
    (fsdp,) = rows_of(made, f"fsdp, {world} process").values()

    assert ddp["ratio"] == 1
    assert fsdp["ratio"] == pytest.approx(1, abs=0.02)
    assert fsdp["ours"] == pytest.approx(ddp["ours"] / world, rel=0.02)


def test_what_is_frozen_does_not_travel(made):
    (whole,), (half,) = rows_of(made, "ddp: all-reduced").values(), rows_of(made, "ddp, one of two").values()

    assert whole["ratio"] == half["ratio"] == 1
    assert half["ours"] < 0.55 * whole["ours"]


@pytest.mark.parametrize("what", ["samples", "tokens", "modalities", "layers"])
def test_the_peak_grows_along_a_straight_line(made, what):
    (row,) = [row for name, row in rows_of(made, what).items() if "residual" in name]

    assert row["ours"] < 0.05


def test_the_page_has_the_same_tables_and_keeps_its_text(made):
    before, after = (ROOT / "docs" / "scaling.md").read_text(), made[1].read_text()
    titles = [line for line in after.splitlines() if line.startswith("| ddp, 2 processes")]

    assert len(titles) == 1
    assert after.split("<!--")[0] == before.split("<!--")[0]
    assert after.split("-->")[-1] == before.split("-->")[-1]
    names = [
        {line.split("|")[1] for line in page.splitlines() if line.startswith("| fsdp")} for page in (before, after)
    ]
    assert names[0] == names[1]


def test_a_page_without_a_place_for_the_tables_is_refused(tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import scaling; scaling.with_tables('# A page', {})"
    done = subprocess.run([sys.executable, "-c", code, str(SCRIPT.parent)], capture_output=True, text=True)

    assert done.returncode != 0
    assert "The page has no place for the tables. Expected two lines: <!-- made by" in done.stderr
