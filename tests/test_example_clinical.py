"""The clinical example, run as a user runs it, and the patients that it generates."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import clinical_tables as example
import clinical_tables_data as data
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mmfuse.data import read_table, series_statistics

EXAMPLE = Path(example.__file__)
pytestmark = pytest.mark.plain


def run(*arguments):
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinical")
    return folder, run("--quick", "--patients", 900, "--epochs", 6, "--folder", folder)


def test_the_table_has_every_model_beside_the_best_possible(generated):
    _, printed = generated

    rows = re.findall(r"^(\S.*?)\s{2,}(series, table|series|table)\s+([\d.]+)%\s+([\d.]+)", printed, re.MULTILINE)
    scores = {(name, sees): (float(accuracy), float(auroc)) for name, sees, accuracy, auroc in rows}

    assert {name for name, _ in scores} == {"Concat", "only series", "only table", "the best possible"}
    best = scores["the best possible", "series, table"]
    assert best[1] > 0.8
    assert scores["the best possible", "series"][1] < 0.7
    assert scores["the best possible", "table"][1] < 0.7
    assert all(scores[key][1] < best[1] + 0.03 for key in scores)
    assert re.search(r"Concat .* series \d+\.\d% 0\.\d+  table \d+\.\d% 0\.\d+", printed)
    assert "luck moves accuracy by 8.0%" in printed
    assert "600 train, 150 validation, 150 test" in printed


def test_a_patient_is_asked_with_the_saved_model(generated):
    folder, printed = generated

    again = run("--folder", folder, "--ask", "p00751")

    assert "saved to" in printed
    assert re.search(
        r"p00751: age \S+, weight \S+, sex \S+, ward \S+, series \S+\n-> (died|survived) \(\d+% sure", again
    )
    assert again in printed


def test_data_of_ones_own_need_no_split_and_no_best_answers(generated, tmp_path):
    given = generated[0] / "data"
    with (given / "static.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:300]
    with (tmp_path / "static.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name != "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    shutil.copytree(given / "series", tmp_path / "series")

    printed = run("--quick", "--data", tmp_path, "--folder", tmp_path / "run", "--epochs", 1)

    assert "210 train, 30 validation, 60 test" in printed
    assert "best possible" not in printed


def test_without_a_model_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--folder", str(tmp_path), "--ask", "p1"])

    with pytest.raises(SystemExit, match="There is no trained model in .* Run this script without --ask first"):
        example.main()


def test_the_best_answers_are_calibrated_and_need_both_modalities():
    patients = data.draw(20_000, data.AFTER, np.random.default_rng(1))

    best = data.best_answers(patients, data.AFTER)

    for name, risk in best.items():  # a posterior: of those with risk p, the share p dies
        low, middle, high = np.quantile(risk, [0.25, 0.5, 0.75])
        for some in (risk <= low, (risk > low) & (risk <= middle), (risk > middle) & (risk <= high), risk > high):
            if some.any():
                error = np.sqrt((risk[some] * (1 - risk[some])).sum()) / some.sum()
                assert abs(risk[some].mean() - patients.died[some].mean()) < 4 * error, name
    area = {name: roc_auc_score(patients.died, risk) for name, risk in best.items()}
    assert area["both"] > 0.85
    assert max(area["series"], area["table"]) < 0.62


def test_the_evidence_of_a_series_is_the_ratio_of_two_gaussians():
    patients = data.draw(5, data.BEFORE, np.random.default_rng(2))

    evidence = data._evidence(patients.hours, patients.signs)

    for i in range(5):
        expected = 0.0
        for k in range(4):
            seen = ~np.isnan(patients.signs[i, :, k])
            drift = data.DRIFT[k] * patients.hours[i, seen] / 24
            spread = data.NOISE[k] ** 2 * np.eye(seen.sum()) + data.LEVEL[k] ** 2
            apart = patients.signs[i, seen, k] - data.BASE[k]
            logs = [-0.5 * (apart - c * drift) @ np.linalg.solve(spread, apart - c * drift) for c in (1, -1)]
            expected += logs[0] - logs[1]
        assert evidence[i] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_generated_patients_are_as_uneven_and_incomplete_as_real_ones(generated):
    folder = generated[0] / "data"
    table = example.read_patients(folder)
    tables = example.split_patients(table)

    assert None in table.column("series")
    assert None in table.column("age")
    assert "burns" in tables["test"].column("ward")
    assert "burns" not in tables["train"].column("ward") + tables["validation"].column("ward")
    assert example.kinds_of(tables["train"]) == {"numbers": ["age", "weight"], "categories": ["sex", "ward"]}
    first = read_table(folder / "series" / "p00001.csv")
    assert first.columns == ("hours", *data.CHANNELS)
    assert any(None in first.column(name) for name in data.CHANNELS)
    gaps = np.diff(np.array(first.column("hours"), dtype=float))
    assert gaps.min() > 0
    assert gaps.std() > 0.1


def test_statistics_are_those_of_the_training_patients(generated):
    train = example.split_patients(example.read_patients(generated[0] / "data"))["train"]

    model = example.make_model("Concat", train)

    transform = model.encoders["series"].transform()
    expected = series_statistics(train, "series", reading=example.READING)
    assert transform.mean.tolist() == expected["mean"]
    assert transform.channels == len(data.CHANNELS)
    assert model.encoders["table"].transform().categories["ward"] == ["cardiology", "medicine", "oncology", "surgery"]
