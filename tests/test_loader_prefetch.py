"""The logic of copying ahead, with a stream that only writes down what is asked of it."""

from contextlib import contextmanager

import pytest
import torch
from torch.utils import _pytree as pytree

from mmfuse import Batch, Input, Target
from mmfuse.data.loading.prefetch import copy_ahead, prefetch


class Noted(torch.Tensor):
    """A tensor that knows which streams use it."""

    def record_stream(self, stream):
        stream.used.append(int(self.flatten()[0]))


class FakeStream:
    """Writes down what happens, in its order."""

    def __init__(self):
        self.log = []
        self.used = []
        self.aside = False

    @contextmanager
    def copying(self):
        self.aside = True
        yield
        self.aside = False

    def join(self):
        self.log.append("join")
        return self

    def copy(self, batch):
        assert self.aside
        self.log.append(f"copy {int(batch.inputs['x'].values[0, 0])}")
        return torch.utils._pytree.tree_map(lambda x: x.as_subclass(Noted), batch)


def batch_of(number):
    values, real = torch.full((2, 3), number), torch.ones(2, dtype=torch.bool)
    return Batch({"x": Input(values, real, torch.ones(2, 3, dtype=torch.bool))}, {"y": Target(values[:, 0], real)})


def numbers_of(batches):
    return [int(batch.inputs["x"].values[0, 0]) for batch in batches]


def failing_after(count):
    for number in range(count):
        yield batch_of(number)
    raise ValueError("The disk is gone.")


def test_batches_that_are_on_the_device_already_are_handed_out_as_they_are():
    batches = [batch_of(number) for number in range(3)]

    found = list(prefetch(batches, "cpu"))

    assert [id(batch) for batch in found] == [id(batch) for batch in batches]


def test_without_a_gpu_batches_are_only_moved():
    (moved,) = prefetch([batch_of(1)], "meta")

    assert all(leaf.device.type == "meta" for leaf in pytree.tree_leaves(moved))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_all_batches_come_in_their_order(count):
    assert numbers_of(copy_ahead(map(batch_of, range(count)), FakeStream())) == list(range(count))


def test_the_copy_of_the_next_is_started_after_the_wait_for_the_present_and_before_it_is_used():
    side = FakeStream()

    for batch in copy_ahead(map(batch_of, range(3)), side):
        side.log.append(f"use {int(batch.inputs['x'].values[0, 0])}")

    assert side.log == ["copy 0", "join", "copy 1", "use 0", "join", "copy 2", "use 1", "join", "use 2"]


def test_the_stream_of_the_computation_claims_every_tensor_of_each_batch():
    side = FakeStream()

    numbers_of(copy_ahead(map(batch_of, [5, 7]), side))

    # values, present, mask, labels and known of each; what is boolean counts as 1
    assert side.used == [5, 1, 1, 5, 1, 7, 1, 1, 7, 1]


def test_an_error_comes_in_place_of_its_batch():
    found = []

    with pytest.raises(ValueError, match="The disk is gone"):
        for batch in copy_ahead(failing_after(3), FakeStream()):
            found += numbers_of([batch])

    assert found == [0, 1, 2]
    with pytest.raises(ValueError, match="The disk is gone"):
        next(copy_ahead(failing_after(0), FakeStream()))


def test_beside_other_processes_an_error_comes_at_once(monkeypatch):
    monkeypatch.setattr("mmfuse.data.loading.prefetch.world", lambda: 2)
    found = []

    with pytest.raises(ValueError, match="The disk is gone"):
        for batch in copy_ahead(failing_after(3), FakeStream()):
            found += numbers_of([batch])

    assert found == [0, 1]  # the third would wait for processes that wait for this one


def test_who_stops_early_closes_the_source_and_has_one_batch_more_taken():
    taken, closed = [], []

    def source():
        try:
            for number in range(9):
                taken.append(number)
                yield batch_of(number)
        finally:
            closed.append(True)

    batches = copy_ahead(source(), FakeStream())
    used = numbers_of([next(batches), next(batches)])
    batches.close()
    del batches

    assert used == [0, 1] and taken == [0, 1, 2] and closed == [True]
