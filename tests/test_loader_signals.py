"""Workers go on when all processes of a group are asked to stop; they end with the main process."""

import os
import signal
import time

import psutil
import pytest
import torch
from test_loader_ranks import loader_of, same
from tiny_loader import Number

pytestmark = pytest.mark.plain


IN_FORKS = []  # what a forked process does before all else
os.register_at_fork(after_in_child=lambda: [act() for act in IN_FORKS])


class Slow(Number):
    """Takes its time; the process that reads leaves its number in the sample."""

    def __call__(self, value):
        time.sleep(0.02)
        return torch.tensor([float(value)])


def workers():
    """The processes that read for the loaders of this one."""
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


def send_from_another_process(signals, pids):
    if not (child := os.fork()):
        for number in signals:
            for pid in pids:
                os.kill(pid, number)
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGINT]])
def test_a_signal_to_the_whole_group_costs_no_batch(signals):
    loader, before = loader_of(workers=2, transform=Slow()), workers()

    batches = iter(loader)
    found = [next(batches)]
    send_from_another_process(signals, [child.pid for child in workers() if child not in before])
    found += batches

    same(found, list(loader_of(transform=Slow())))


def test_a_signal_that_comes_while_workers_start_costs_no_batch():
    IN_FORKS.append(lambda: [os.kill(os.getpid(), number) for number in (signal.SIGTERM, signal.SIGINT)])
    try:
        found = list(loader_of(workers=2, transform=Slow()))
    finally:
        IN_FORKS.clear()

    same(found, list(loader_of(transform=Slow())))


def test_workers_end_when_the_main_process_ends_them_or_is_gone():
    before = workers()
    reading, writing = os.pipe()
    if not (child := os.fork()):
        batches = iter(loader_of(workers=2, transform=Slow()))
        next(batches)
        first, second = psutil.Process().children()
        first.terminate()  # as the loader itself does when it has waited too long
        os.write(writing, f"{first.pid} {second.pid}".encode())
        time.sleep(1000)
        os._exit(0)
    first, second = map(psutil.Process, map(int, os.read(reading, 100).split()))
    deadline = time.monotonic() + 60
    while first.is_running() and first.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not first.is_running() or first.status() == psutil.STATUS_ZOMBIE
    assert second.is_running()

    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    psutil.wait_procs([second], timeout=60)
    assert not second.is_running() or second.status() == psutil.STATUS_ZOMBIE
    assert [each for each in workers() if each not in before] == []
