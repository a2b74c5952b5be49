"""The history of a run: read back from its folder, asked by name, and drawn."""

import math
import sys

import pytest

from mmfuse.training import History, JsonLines, plot_history
from mmfuse.training.plot import panels_of

ROWS = [
    {
        "epoch": epoch,
        "learning_rate": 1e-3 / epoch,
        "train/loss": 3.0 / epoch,
        "train/sort/loss": 2.0 / epoch,
        "train/size/loss": 1.0 / epoch,
        "validation/loss": 3.3 / epoch,
        "validation/sort/loss": 2.2 / epoch,
        "validation/size/loss": 1.1 / epoch,
        "validation/sort/accuracy": 1 - 0.5 / epoch,
        "validation/sort/balanced_accuracy": 1 - 0.6 / epoch,
        "validation/size/mae": 5.0 / epoch,
    }
    for epoch in (1, 2, 3)
]


def test_a_history_is_read_back_from_the_folder_of_its_run(tmp_path):
    log = JsonLines(tmp_path / "history.jsonl")
    for row in ROWS:
        log(10 * row["epoch"] - 5, {"step/loss": 1.0})
        log(10 * row["epoch"], {**row, "best_epoch": 1 if row["epoch"] == 1 else 2})

    history = History.load(tmp_path)

    assert history == History(ROWS, best_epoch=2)
    assert History.load(tmp_path / "history.jsonl") == history


def test_what_was_not_finite_is_nan_again(tmp_path):
    JsonLines(tmp_path / "history.jsonl")(4, {"epoch": 1, "validation/r2": math.nan})

    history = History.load(tmp_path)

    assert math.isnan(history["validation/r2"][0])
    assert history.best_epoch is None


def test_a_history_that_has_not_begun_is_empty(tmp_path):
    (tmp_path / "history.jsonl").write_text("")

    assert History.load(tmp_path) == History()


def test_a_number_that_only_some_epochs_have_is_nan_in_the_others():
    history = History([{"epoch": 1, "a": 1.0, "b": 2.0}, {"epoch": 2, "a": 3.0}])

    assert history["b"][0] == 2.0 and math.isnan(history["b"][1])
    assert history.names == ["epoch", "a", "b"]


@pytest.mark.plain
def test_a_name_that_does_not_exist_is_answered_with_the_nearest():
    with pytest.raises(KeyError, match="no 'validation/sort/acuracy'.*Did you mean 'validation/sort/accuracy'"):
        History(ROWS)["validation/sort/acuracy"]


@pytest.mark.plain
def test_a_folder_without_a_history_says_so(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="There is no history.jsonl in .* Expected the folder that fit was given"
    ):
        History.load(tmp_path)


def test_every_loss_metric_and_rate_has_its_panel():
    panels = {panel.title: panel.lines for panel in panels_of(History(ROWS))}

    assert panels == {
        "sum of the losses": {"train": "train/loss", "validation": "validation/loss"},
        "sort: loss": {"train": "train/sort/loss", "validation": "validation/sort/loss"},
        "size: loss": {"train": "train/size/loss", "validation": "validation/size/loss"},
        "sort: accuracy": {"sort": "validation/sort/accuracy"},
        "sort: balanced accuracy": {"sort": "validation/sort/balanced_accuracy"},
        "size: mae": {"size": "validation/size/mae"},
        "learning rate": {"": "learning_rate"},
    }


def test_the_sum_of_a_single_loss_is_not_drawn_twice():
    rows = [{name: value for name, value in row.items() if "size" not in name} for row in ROWS]

    titles = [panel.title for panel in panels_of(History(rows))]

    assert titles == ["sort: loss", "sort: accuracy", "sort: balanced accuracy", "learning rate"]


def test_a_task_may_have_a_name_with_a_slash():
    history = History([{"epoch": 1, "train/a/b/loss": 1.0, "validation/a/b/loss": 1.0, "validation/a/b/f1": 0.5}])

    assert [panel.lines for panel in panels_of(history)] == [
        {"train": "train/a/b/loss", "validation": "validation/a/b/loss"},
        {"a/b": "validation/a/b/f1"},
    ]


def test_a_history_is_drawn_with_its_best_epoch(tmp_path):
    figure = plot_history(History(ROWS, best_epoch=2), tmp_path / "history.png")

    axes = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in axes] == [panel.title for panel in panels_of(History(ROWS))]
    train, validation = axes[1].lines[0], axes[1].lines[1]
    assert train.get_ydata().tolist() == [2.0, 1.0, 2.0 / 3]
    assert validation.get_ydata().tolist() == [2.2, 1.1, 2.2 / 3]
    for axis in axes:
        assert any(line.get_label().startswith("best epoch, 2") for line in axis.lines)
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def test_one_metric_of_several_tasks_is_one_panel_with_a_legend_of_its_own():
    history = History([{"epoch": e, "validation/a/f1": 0.5, "validation/b/f1": 0.5 + e} for e in (1, 2)], best_epoch=1)

    figure = plot_history(history)

    assert [axis.get_title(loc="left") for axis in figure.axes] == ["f1"]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b"]
    assert figure.axes[0].get_title(loc="right") == "0.5, 1.5"


def test_a_run_without_validation_and_with_gaps_is_drawn():
    rows = [{"epoch": 1, "train/loss": 500.0, "train/sort/loss": 500.0}, {"epoch": 2, "train/loss": 1.0}]

    figure = plot_history(History(rows))

    assert [axis.get_title(loc="left") for axis in figure.axes] == ["sort: loss"]


@pytest.mark.plain
def test_a_history_without_an_epoch_is_not_drawn():
    with pytest.raises(ValueError, match="a history without an epoch"):
        plot_history(History())


@pytest.mark.plain
def test_a_missing_matplotlib_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(ImportError, match=r"matplotlib is missing.*pip install 'mmfuse\[plots\]'"):
        plot_history(History(ROWS))


@pytest.mark.plain
def test_a_folder_is_no_history():
    with pytest.raises(TypeError, match=r"got a str. Expected a History. .*History.load\(folder\)"):
        plot_history("run")
