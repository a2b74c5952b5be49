"""Logs for TensorBoard and for Weights & Biases, offline, in a folder of the test."""

import os
import sys

import pytest

from mmfuse.training import TensorBoard, WeightsAndBiases


def curves(folder):
    """Step and value of everything that TensorBoard would draw."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_is_told_every_number_at_once(tmp_path):
    log = TensorBoard(tmp_path / "board")

    log(50, {"step/result/loss": 0.5, "learning_rate": 0.25})
    log(100, {"step/result/loss": 0.25, "epoch": 1, "validation/result/accuracy": 0.75})

    assert curves(tmp_path / "board") == {  # before it is closed: a run that is killed loses nothing
        "step/result/loss": [(50, 0.5), (100, 0.25)],
        "learning_rate": [(50, 0.25)],
        "epoch": [(100, 1.0)],
        "validation/result/accuracy": [(100, 0.75)],
    }
    log.close()


def test_a_run_that_goes_on_hides_from_tensorboard_what_it_does_again(tmp_path):
    first, second = TensorBoard(tmp_path), TensorBoard(tmp_path)
    for step in (1, 2, 3):
        first(step, {"a": 0.5 * step})
    first.close()

    second.keep_until(1)
    second(2, {"a": 4.0})
    second.close()
    second(3, {"a": 8.0})  # a closed one begins another file
    second.close()

    assert curves(tmp_path)["a"] == [(1, 0.5), (2, 4.0), (3, 8.0)]


def test_a_log_that_was_told_nothing_writes_nothing(tmp_path):
    log = TensorBoard(tmp_path / "board")
    log.keep_until(3)
    log.close()

    WeightsAndBiases("digits", folder=tmp_path / "wandb").close()

    assert os.listdir(tmp_path) == []


def test_weights_and_biases_writes_a_run_without_a_network(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "own" / name.lower()))
    log = WeightsAndBiases("digits", folder=tmp_path / "run", id="first", config={"fusion": "Concat"})

    try:
        log(50, {"step/result/loss": 0.5})
        log(100, {"validation/result/accuracy": 0.75, "epoch": 1})
        log.close()
    finally:
        wandb.teardown()  # ends the process that it started

    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*-first/run-first.wandb")
    content = written.read_bytes()
    for name in (b"digits", b"Concat", b"step/result/loss", b"validation/result/accuracy", b"0.75"):
        assert name in content, name
    assert not any(path.is_file() for path in home.rglob("*") if "logs" not in path.parts)


@pytest.mark.plain
def test_a_mode_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="mode='ofline'. Expected one of .*Did you mean 'offline'"):
        WeightsAndBiases("digits", mode="ofline")


@pytest.mark.plain
@pytest.mark.parametrize(
    ("module", "make", "package"),
    [
        ("torch.utils.tensorboard", lambda: TensorBoard("board"), "tensorboard"),
        ("wandb", lambda: WeightsAndBiases("digits"), "wandb"),
    ],
)
def test_a_missing_package_is_told_before_the_run_begins(monkeypatch, module, make, package):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ImportError, match=rf"{package} is missing. .* pip install 'mmfuse\[tracking\]'"):
        make()
