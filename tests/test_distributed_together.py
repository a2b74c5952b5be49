"""An error in one process ends all of them within the time limit, and the log of rank 0 names it."""

import os
import signal
import threading
import time

import pytest
import torch.distributed as dist
from processes import outcomes, run

from mmfuse.data.errors import DataError
from mmfuse.distributed import agree, rank, together

WAITS = 2.0  # seconds for which a process waits for the others


def raises():
    raise DataError("train.csv row 7, 'image': it is broken. Expected a picture. Mend it.")


def is_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps():
    time.sleep(1000)


def fills_the_disk():
    raise OSError(28, "No space left on device")


def step(fault, at=3):
    """A run in which rank 1 fails at some step."""
    with together():
        for number in range(1000):
            if number == at and rank() == 1:
                fault()
            agree([1.0])


@pytest.mark.parametrize("fault", [raises, fills_the_disk])
def test_an_error_ends_all_processes_and_each_names_it(fault):
    with pytest.raises((DataError, OSError)) as cause:
        fault()

    first, second, third = outcomes(3, step, fault, waits=WAITS)

    assert type(second.error) is type(cause.value)  # its own
    text = f"Rank 1 of 3 has failed: {type(cause.value).__name__}: {cause.value}"
    for other in (first, third):
        assert other.code == 1
        assert text in other.log
        assert not other.timed_out
    assert max(each.seconds for each in (first, second, third)) < WAITS + 5


@pytest.mark.parametrize("fault", [is_killed, sleeps])
def test_a_process_without_a_sign_is_named_too(fault):
    first, second, third = outcomes(3, step, fault, waits=WAITS)

    assert [each.code for each in (first, second, third)] == [1, -9 if fault is is_killed else 1, 1]
    for other in (first, third):
        assert "Rank 1 of 3 gave no sign: killed, out of memory, or stuck for longer" in other.log
        assert not other.timed_out
    assert max(each.seconds for each in (first, second, third)) < WAITS + 5


def is_killed_by_a_launcher_too():
    """Rank 1 dies, and what started them ends the other, as torchrun does, while that one asks who it was."""
    agree([1.0])
    if rank() == 0:
        threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGTERM]).start()
    step(is_killed)


def test_a_launcher_that_ends_all_does_not_keep_a_process_from_saying_which_was_killed():
    first, second = outcomes(2, is_killed_by_a_launcher_too, waits=20.0)

    assert (first.code, second.code) == (1, -9)
    assert "Rank 1 of 2 gave no sign: killed" in first.log


def is_stuck():
    with together():
        agree([1.0])
        if rank() == 1:
            raises()
        time.sleep(1000)


def test_a_process_that_is_stuck_elsewhere_is_ended_by_its_watch():
    first, second = outcomes(2, is_stuck, waits=60.0)

    assert (first.code, second.code) == (1, 1)
    assert "Rank 1 of 2 has failed: DataError: train.csv row 7" in first.log
    assert "Rank 0 did not notice, and is ended." in first.log
    assert max(first.seconds, second.seconds) < 10


def all_raise():
    with together():
        agree([1.0])
        raise FloatingPointError("all of us")


def test_an_error_of_all_is_that_of_each():
    for ended in outcomes(2, all_raise):
        assert isinstance(ended.error, FloatingPointError)
        assert "has failed" not in ended.log


def goes_on():
    for _ in range(2):
        with together(), together():
            agree([1.0])
    return agree([rank()])


def test_without_an_error_nothing_happens():
    with together():
        pass
    with pytest.raises(KeyError), together():
        raise KeyError("alone")

    assert run(2, goes_on) == [[1.0], [1.0]]


def makes_a_group():
    with together():
        if rank() == 1:
            time.sleep(0.5)
            raise OSError(28, "No space left on device")
        dist.new_group(backend="gloo")


def test_an_error_ends_a_process_that_waits_for_others_to_make_a_group():
    first, second = outcomes(2, makes_a_group, timeout=30.0)

    assert second.code == 1
    assert isinstance(second.error, OSError)
    assert first.code == 1
    assert not first.timed_out
    assert "Rank 1 of 2 has failed: OSError: [Errno 28] No space left on device" in first.log
