"""The helper that runs tests in several processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from processes import outcomes, run

from mmfuse.distributed import agree, rank, world


def test_each_process_knows_its_number_and_gives_its_result_back():
    found = run(3, lambda factor: (rank(), world(), factor * torch.ones(2), agree([rank()])), 2.0)

    assert [(number, size) for number, size, *_ in found] == [(0, 3), (1, 3), (2, 3)]
    assert all(torch.equal(tensor, torch.full((2,), 2.0)) for *_, tensor, _ in found)
    assert [total for *_, total in found] == [[3.0]] * 3
    assert world() == 1


def fails():
    sys.stdout.write("before the end")
    if rank() == 1:
        raise KeyError("what went wrong")
    sys.exit(7)


def test_errors_and_exit_codes_come_back():
    first, second = outcomes(2, fails)

    assert (first.code, second.code) == (7, 1)
    assert isinstance(second.error, KeyError)
    assert "before the end" in first.log
    assert "what went wrong" in second.log
    with pytest.raises(AssertionError, match="what went wrong"):
        run(2, fails)


def sleeps():
    if rank() == 0:
        sys.stdout.write(str(subprocess.Popen(["sleep", "100"]).pid))
        sys.stdout.flush()
        time.sleep(100)
    os.kill(os.getpid(), 9)


def test_nothing_outlives_the_time_limit():
    first, second = outcomes(2, sleeps, timeout=2.0)

    assert first.timed_out
    assert not second.timed_out
    assert (first.code, second.code) == (-9, -9)
    grandchild = int(first.log)
    time.sleep(0.1)
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


def sockets():
    return {link for each in Path("/proc/self/fd").iterdir() if (link := _link(each)).startswith("socket:")}


def _link(path):
    try:
        return os.readlink(path)
    except OSError:  # that of the look itself
        return ""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc")
def test_processes_are_forked_before_the_store_of_the_parent_has_a_thread_that_may_hold_locks():
    before = sockets()

    ended = outcomes(3, sockets, meet=False)

    assert [each.result - before for each in ended] == [set(), set(), set()]
