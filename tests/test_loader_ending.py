"""The workers of a loader end in order, however the loader is let go."""

import gc
import multiprocessing
import os
import sys

import pytest
from tiny_loader import Number, model_of

from mmfuse.data import DataError, load_batches, read_table


class Broken(Number):
    def __call__(self, value):
        raise ValueError("It is broken.")


def load(transform, batch_size=2):
    table = read_table([{"x": row} for row in range(8)])
    return load_batches(table, model_of({}, x=transform), workers=2, batch_size=batch_size, timeout=20.0)


def in_a_cycle():
    loader = load(Number())
    list(loader)
    cycle = [loader]
    cycle.append(cycle)
    return multiprocessing.active_children()


def in_an_error_that_is_kept(batch_size=2):
    loader = load(Broken(), batch_size)
    with pytest.raises(DataError, match="It is broken") as caught:
        list(loader)
    assert caught.traceback  # it, the frames it went through, and this one with its name
    return multiprocessing.active_children()


@pytest.mark.parametrize("let_go", [in_a_cycle, in_an_error_that_is_kept, lambda: in_an_error_that_is_kept(8)])
def test_workers_of_a_loader_in_a_reference_cycle_end_by_themselves(monkeypatch, let_go):
    gc.collect()
    before, terminated = set(multiprocessing.active_children()), []
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "terminate", terminated.append)
    workers = set(let_go()) - before

    gc.collect()

    assert len(workers) == 2
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert not terminated  # as they are after they were waited for 5 s each


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_that_lets_go_of_its_copy_of_a_loader_leaves_the_workers_alone(monkeypatch):
    loader = load(Number())
    batches = iter(loader)
    next(batches)
    raised = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)

    child = os.fork()
    if not child:
        del loader, batches
        gc.collect()
        os._exit(len(raised))

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(list(batches)) == 3
