"""The search of examples/tune.py: run as a user runs it, killed and started again, pruned, drawn."""

import contextlib
import importlib
import io
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import sys

import pytest
from PIL import Image

pytest.importorskip("optuna")

import optuna
import tune
import tune_pictures
import tune_study

from mmfuse import load
from mmfuse.training import NonFiniteError

pytestmark = pytest.mark.plain
SETTINGS = {"seed": 0, "epochs": 4}


def run(*arguments):
    """What the script prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", ["tune.py", "--quick", *map(str, arguments)])
        tune.main()
    return printed.getvalue()


def trials(folder):
    study = optuna.load_study(study_name=tune_study.NAME, storage=f"sqlite:///{folder / 'study.db'}")
    return [(trial.state.name, trial.params, trial.value, trial.intermediate_values) for trial in study.trials]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    return folder, run("--folder", folder)


def test_a_search_tries_every_fusion_and_tells_the_best_trial(searched):
    folder, printed = searched

    found, best = trials(folder), int(re.search(r"Best: trial (\d+)", printed)[1])
    assert found[best][2] == max(value for _, _, value, _ in found)
    assert {params["fusion"] for _, params, _, _ in found} == set(tune.QUICK["fusions"])
    assert [state for state, *_ in found] == ["COMPLETE"] * 3
    assert all(max(reported.values()) == value for _, _, value, reported in found)
    assert f"Best: trial {best}, {tune.shown(found[best][1])}: {found[best][2]:.1%} of the validation rows" in printed
    assert "Pruned: 0 of 3 trials (0%), which saved 0% of the epochs." in printed
    with Image.open(folder / "study.png") as picture:
        assert picture.width > 1000


def test_the_best_model_is_that_of_its_epoch_and_can_be_asked(searched):
    folder, printed = searched

    model = load(folder / "best")

    assert model.tasks["result"].classes == load(folder / "trials" / "000" / "model").tasks["result"].classes
    score = float(re.search(r"([\d.]+)% of the test rows", printed)[1]) / 100
    tables = tune.read_data(folder / "data", {})
    report = tune.evaluate(model, tune.batches_of(tables["test"], model))
    assert report.numbers["result/accuracy"] == pytest.approx(score, abs=5e-4)


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(searched, tmp_path):
    folder, _ = searched
    shutil.copytree(folder / "data", tmp_path / "data")

    child = multiprocessing.get_context("fork").Process(target=be_killed, args=[tmp_path])
    child.start()
    child.join()
    left = trials(tmp_path)
    run("--folder", tmp_path)

    assert child.exitcode == -signal.SIGKILL
    assert [state for state, *_ in left] == ["COMPLETE", "RUNNING", "WAITING"][: len(left)]
    assert trials(tmp_path) == trials(folder)


def be_killed(folder):
    """In the middle of the second trial, after its first epoch."""
    reports = []
    report = optuna.Trial.report

    def report_and_die(self, value, step):
        report(self, value, step)
        reports.append(step)
        if len(reports) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    optuna.Trial.report = report_and_die
    run("--folder", folder)


def test_a_search_that_is_done_only_tells_its_best_again(searched):
    folder, printed = searched
    before = trials(folder)

    again = run("--folder", folder)

    assert again == printed[printed.index("\nBest: ") :]
    assert trials(folder) == before


def test_training_longer_takes_the_parameters_of_a_trial(searched):
    folder, _ = searched

    printed = run("--folder", folder, "--train", 1, "--epochs", 1)

    assert f"Training {tune.shown(trials(folder)[1][1])} for 1 epochs" in printed
    assert re.search(r"[\d.]+% of the validation rows, [\d.]+% of the test rows are right. Saved to ", printed)
    assert (folder / "trained-001" / "model" / "model.safetensors").exists()
    with pytest.raises(SystemExit, match="There is no trial 7 in .* Expected one of 0 to 2"):
        run("--folder", folder, "--train", 7)


def fake(curve):
    """A training whose validation accuracies are these, logged among other numbers."""

    def train(trial, log):
        trial.suggest_float("learning_rate", 0, 1)
        for epoch, value in enumerate(curve, start=1):
            log(100 * epoch - 50, {"train/loss": 1.0})
            log(100 * epoch, {tune_study.METRIC: value, "train/loss": 1.0})
        return max(curve)

    return train


def test_a_trial_worse_than_most_is_pruned_and_what_that_saved_is_told(tmp_path):
    study = tune_study.open_study(tmp_path, SETTINGS)
    said = []
    curves = [[0.2, 0.3, 0.4, 0.5]] * tune_study.STARTING + [[0.2, 0.1, 0.9, 0.9], [0.3, 0.4, 0.5, 0.6]]

    for trial in tune_study.trials_of(study, [], len(curves), seed=0):
        said.append(tune_study.run_trial(study, trial, fake(curves[trial.number])))

    assert said[-3:] == ["50.0%", "pruned at 10.0% after 200 steps: worse than most", "60.0%"]
    assert [trial.state.name for trial in study.trials[-3:]] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert study.best_trial.number == len(curves) - 1
    assert tune_study.saved_share(study, epochs=4) == pytest.approx(2 / (4 * len(curves)))


def test_a_trial_that_is_not_finite_does_not_end_the_search(tmp_path):
    study = tune_study.open_study(tmp_path, SETTINGS)

    def diverge(trial, log):
        log(100, {tune_study.METRIC: 0.1})
        raise NonFiniteError("Step 107")

    said = [tune_study.run_trial(study, trial, diverge) for trial in tune_study.trials_of(study, [], 2, seed=0)]

    assert said == ["pruned: a loss or gradient was not finite"] * 2
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "PRUNED"]


def test_a_signal_leaves_the_trial_to_the_next_start_which_does_not_report_twice(tmp_path):
    study = tune_study.open_study(tmp_path, SETTINGS)

    def stopped(trial, log):
        log(100, {tune_study.METRIC: 0.4})
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        for trial in tune_study.trials_of(study, ["Concat"], 1, seed=0):
            tune_study.run_trial(study, trial, stopped)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"]

    again = tune_study.open_study(tmp_path, SETTINGS)
    for trial in tune_study.trials_of(again, ["Concat"], 1, seed=0):
        assert tune_study.run_trial(again, trial, fake([0.4, 0.5])) == "50.0%"

    assert [(trial.state.name, trial.intermediate_values) for trial in again.trials] == [
        ("COMPLETE", {100: 0.4, 200: 0.5})
    ]


def test_what_is_proposed_depends_on_the_seed_and_the_trials_alone(tmp_path):
    def proposed(folder, seed, again):
        study = tune_study.open_study(tmp_path / folder, SETTINGS)
        for number in (3, 8):
            if again:
                study = tune_study.open_study(tmp_path / folder, SETTINGS)
            for trial in tune_study.trials_of(study, [], number, seed):
                tune_study.run_trial(study, trial, fake([0.1 * (trial.number % 3)]))
        return [trial.params["learning_rate"] for trial in study.trials]

    first = proposed("one", 0, again=False)
    assert proposed("other", 0, again=True) == first
    assert len(set(first)) == 8
    assert proposed("third", 1, again=False)[0] != first[0]


def test_a_study_does_not_go_on_with_other_settings(tmp_path):
    tune_study.open_study(tmp_path, SETTINGS)

    with pytest.raises(ValueError, match=r"this call has epochs=9 for 4. Expected the same.* or another --folder"):
        tune_study.open_study(tmp_path, SETTINGS | {"epochs": 9})


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "tune_study")

    with pytest.raises(ImportError, match=r"optuna, .* is missing. Run pip install 'mmfuse\[tuning\]'"):
        importlib.import_module("tune_study")


def test_no_tick_of_rates_that_are_near_or_far_stands_on_another():
    for rates in ((3.1e-3, 3.2e-3), (2e-4, 2e-2)):
        tried = [
            optuna.trial.create_trial(
                params={"fusion": "Concat", "learning_rate": rate},
                distributions={
                    "fusion": optuna.distributions.CategoricalDistribution(["Concat"]),
                    "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1.0, log=True),
                },
                intermediate_values={10: 0.5},
                value=0.5,
            )
            for rate in rates
        ]
        figure = tune_pictures._new_figure()
        panel = figure.subplots(2, 3)[0, 2]
        tune_pictures._draw_rates(panel, tried, {"Concat": "black"})
        figure.canvas.draw()

        labels = [text for minor in (False, True) for text in panel.get_xticklabels(minor=minor) if text.get_text()]
        edges = sorted((text.get_window_extent().x0, text.get_window_extent().x1) for text in labels)
        assert len(edges) >= 2
        assert all(right < left for (_, right), (left, _) in itertools.pairwise(edges))
