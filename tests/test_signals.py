"""Signals to stop, sent for real: how often, when, and what is seen of it on a terminal."""

import fcntl
import os
import pty
import random
import signal
import struct
import sys
import termios
import threading
import time

import pytest
from processes import outcomes
from test_resume import Interrupted, pull_the_plug, require_same, rows_of, samples, stop_at, told, train
from tiny_data import make_model, write_rows
from tqdm import tqdm

from mmfuse.data import load_batches, read_table
from mmfuse.training import History, Preempted, fit, signals
from mmfuse.training.bar import Bar

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def send(*numbers, apart=0.0):
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(apart)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_comes_twice_within_a_moment_is_one(tmp_path, number):
    """As from a scheduler that signals torchrun and its workers: torchrun passes it on."""
    (ended,) = outcomes(
        1, lambda: train(tmp_path, save_every=None, log=stop_at(4, lambda: send(number, number))), meet=False
    )

    assert ended.code == 143
    require_same(train(tmp_path), train(None))


@pytest.mark.parametrize("number", STOP)
def test_the_same_signal_again_later_ends_the_process_at_once(tmp_path, monkeypatch, number):
    monkeypatch.setattr(signals, "MOMENT", 0.05)

    (ended,) = outcomes(1, lambda: train(tmp_path, log=stop_at(4, lambda: send(number, number, apart=0.1))), meet=False)

    if number == signal.SIGINT:
        assert isinstance(ended.error, KeyboardInterrupt)
    else:
        assert ended.code == -number
    require_same(train(tmp_path), train(None))


def test_another_signal_later_is_no_second_one(tmp_path, monkeypatch):
    """A scheduler warns with one, and asks with another when the time is nearly over."""
    monkeypatch.setattr(signals, "MOMENT", 0.05)
    every = (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM)

    with pytest.raises(Preempted, match="SIGTERM stopped the run after step 5") as stopped:
        train(tmp_path, save_every=None, log=stop_at(4, lambda: send(*every, apart=0.1)))

    assert stopped.value.code == 143


def test_among_several_processes_a_second_sigterm_counts_for_nothing(tmp_path, monkeypatch):
    """torchrun sends one to those that still save when the first of them has ended."""
    monkeypatch.setattr(signals, "MOMENT", 0.05)

    def work():
        from mmfuse.distributed import rank

        batch = samples()
        mine = [rows_of(batch, list(range(start, start + 2))) for start in range(2 * rank(), 20, 4)]
        train(
            tmp_path,
            train=mine,
            save_every=None,
            log=stop_at(2, lambda: send(signal.SIGTERM, signal.SIGTERM, apart=0.1)),
        )

    assert [each.code for each in outcomes(2, work)] == [143, 143]


def test_twenty_signals_at_random_times_change_nothing(tmp_path):
    """In steps, while a checkpoint is written, in the validation, between epochs; with workers and without."""
    table, draw = read_table(write_rows(tmp_path)), random.Random(0)

    def run_table(folder, workers=0, seconds=0.0, number=0):
        model = make_model()
        batches, validation = (
            load_batches(table, model, train=t, batch_size=2, workers=workers) for t in (True, False)
        )
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        given = {"save_every": 1, "folder": folder, "resume": True} if folder else {}
        history = fit(model, batches, validation, epochs=4, progress=False, **given)
        signal.setitimer(signal.ITIMER_REAL, 0)
        return model.state_dict(), told(history.epochs)

    expected, runs = run_table(None), 1
    for count in range(20):
        folder, number = tmp_path / f"run{runs}", draw.choice(STOP)
        given = (folder, count % 4 // 3, draw.uniform(0.01, 0.6), number)
        (ended,) = outcomes(1, lambda given=given: run_table(*given), meet=False, timeout=60.0)
        if ended.code in (130, 143):
            assert (ended.code == 130) == (number == signal.SIGINT)
            newest = max(path.name for path in (folder / "checkpoints").glob("step-*"))
            assert f"after step {int(newest[5:13])}, " in str(ended.error)
        else:  # it came before fit could hear it, or when all was over
            assert ended.code in (0, -number) or isinstance(ended.error, KeyboardInterrupt), ended.log
        if (folder / "history.jsonl").exists() and len(History.load(folder).epochs) == 4:
            require_same(run_table(folder), expected)
            runs += 1

    require_same(run_table(tmp_path / f"run{runs}"), expected)


def on_a_terminal(folder, how):
    """What stands on a terminal of 100 columns after a run with a bar."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
    os.dup2(theirs, 2)
    try:
        train(folder, progress=True, log=stop_at(4, how))
    except (SystemExit, Interrupted):
        sys.stderr.write("the end\n")
    seen = b""
    while not seen.endswith(b"the end\r\n"):
        seen += os.read(ours, 100_000)
    return seen.decode()


def test_the_bar_shares_no_line_with_what_is_said_when_a_run_stops(tmp_path):
    (interrupted,) = outcomes(1, on_a_terminal, tmp_path / "first", lambda: send(signal.SIGINT), meet=False)
    (failed,) = outcomes(1, on_a_terminal, tmp_path / "second", pull_the_plug, meet=False)

    lines = [line.rsplit("\r", 1)[-1] for line in interrupted.result.replace("\r\n", "\n").split("\n")]
    assert "%|" in interrupted.result and "%|" in failed.result
    assert "SIGINT: the run stops after this step, or leaves the validation. Press Ctrl-C again to" in lines[-4]
    assert lines[-3].startswith("SIGINT stopped the run after step 5, whose state is saved in ")
    assert lines[-2] == failed.result.replace("\r\n", "").rsplit("\r", 1)[-1] == "the end"


def test_a_bar_starts_no_thread_and_a_process_that_is_forked_beside_tqdm_does_not_wait_for_its_lock():
    """As if tqdm's own thread, of another bar, were just looking at it."""
    held, over = threading.Event(), threading.Event()

    def hold():
        with tqdm.get_lock():
            held.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    (ended,) = outcomes(1, lambda: train(None, progress=True, epochs=1), meet=False, timeout=60.0)
    over.set()
    thread.join()

    assert ended.code == 0, ended.log
    assert "%|" in ended.log
    assert vars(Bar).get("monitor") is None  # that of tqdm itself is another's
