"""Checkpoints of several processes: shards of FSDP2 and copies of DDP, read on any other number of processes."""

import os
import time

import pytest
import torch
from processes import outcomes, run
from test_checkpoints import SETTINGS
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial

from mmfuse._files import CorruptCheckpointError
from mmfuse.distributed import rank, world
from mmfuse.training.checkpoints import writing
from mmfuse.training.checkpoints.checkpoint import Checkpoints
from mmfuse.training.checkpoints.places import files_of
from mmfuse.training.checkpoints.saved import Saved
from mmfuse.training.checkpoints.sharded import box_of
from mmfuse.training.ema import ExponentialMovingAverage
from mmfuse.training.seeds import random_states


class Run:
    """Trained on the same data by each process, shared out or not. Sizes that do not divide: 5, 3, 1."""

    def __init__(self, shared_out, seed=0, mesh=None):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3), nn.Linear(3, 1)).double()
        self.model[2].requires_grad_(False)
        if shared_out:
            for layer in (self.model[0], self.model[2], self.model):
                fully_shard(layer, mesh=mesh)
        self.average = ExponentialMovingAverage(self.model, 0.9)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.01, fused=True)
        self.parts = {"model": self.model, "average": self.average, "optimizer": self.optimizer}

    def step(self, number):
        values = torch.randn(6, 4, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        self.optimizer.zero_grad()
        self.model(values).square().mean().backward()
        self.optimizer.step()
        self.average.update()

    def whole(self):
        """All tensors, of all parts, each as one."""
        return {name: _whole(part.state_dict()) for name, part in self.parts.items()}


def _whole(state):
    if isinstance(state, dict):
        return {key: _whole(value) for key, value in state.items()}
    if isinstance(state, torch.Tensor):
        return (state.full_tensor() if hasattr(state, "full_tensor") else state).detach().clone()
    return state


def begin(folder, shared_out, copies=False):
    """Three steps, saved; returns what the state is then."""
    mesh = init_device_mesh("cpu", (world() // 2, 2), mesh_dim_names=("copy", "shard")) if copies else None
    trained, checkpoints = Run(shared_out, mesh=mesh), Checkpoints(folder)
    for step in (1, 2, 3):
        trained.step(step)
        checkpoints.save(step, trained.parts, {"step": step, "settings": SETTINGS})
    torch.rand(rank() + 1)
    checkpoints.save(4, trained.parts, {"step": 3, "settings": SETTINGS})
    states = random_states()["torch"]
    checkpoints.wait()
    return trained.whole(), states


def go_on(folder, shared_out):
    """The state that a new run reads, the random states, and the state after two more steps."""
    other, checkpoints = Run(shared_out, seed=1), Checkpoints(folder)
    progress = checkpoints.load(other.parts, SETTINGS)
    loaded = other.whole()
    checkpoints.restore_random()
    states = random_states()["torch"]
    for step in (4, 5):
        other.step(step)
    return loaded, states, other.whole(), progress


def require_equal(found, expected, atol=0.0):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            require_equal(found[key], expected[key], atol)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    else:
        assert found == expected


def test_shards_are_read_on_one_process_on_two_and_on_three_and_back(tmp_path):
    """2 -> 1, 2, 3 as shards or whole: read to the bit, and trained further alike."""
    (saved, first_states), (_, second_states) = run(2, begin, tmp_path / "run", True)
    files = {path.name for path in (tmp_path / "run" / "checkpoints" / "step-00000004").iterdir()}
    alone = go_on(tmp_path / "run", False)

    assert {"model.rank0.safetensors", "model.rank1.safetensors", "average.rank1.safetensors"} <= files
    assert {"optimizer.rank1.safetensors", "random.rank1.safetensors", "model.safetensors"} <= files
    assert not [name for name in files if not name.endswith(("safetensors", "json"))]
    require_equal(alone[0], saved)
    assert torch.equal(alone[1], first_states)
    for processes, shared_out in ((2, True), (3, True), (2, False)):
        for number, (loaded, states, further, progress) in enumerate(
            run(processes, go_on, tmp_path / "run", shared_out)
        ):
            require_equal(loaded, saved)
            require_equal(further, alone[2], atol=1e-12)
            assert progress == {"step": 3, "settings": SETTINGS}
            assert torch.equal(states, first_states) == (number == 0)
            assert torch.equal(states, second_states) == (number == 1)


def test_copies_and_shards_are_read_as_each_other_and_saved_again(tmp_path):
    """DDP's copies (2) -> shards (3) -> one process, which saves what they were."""
    (saved, _), _ = run(2, begin, tmp_path / "run", False)
    files = {path.name for path in (tmp_path / "run" / "checkpoints" / "step-00000004").iterdir()}
    run(3, hand_on, tmp_path / "run")

    assert not {"model.rank0.safetensors", "model.rank1.safetensors"} & files
    other, checkpoints = Run(False, seed=1), Checkpoints(tmp_path / "run")
    assert checkpoints.load(other.parts) == {"step": 5}
    require_equal(other.whole(), saved)


def hand_on(folder):
    other, checkpoints = Run(True, seed=1), Checkpoints(folder)
    checkpoints.load(other.parts, SETTINGS)
    checkpoints.save(5, other.parts, {"step": 5})
    checkpoints.wait()


def test_shards_that_several_groups_have_alike_are_written_once(tmp_path):
    """HSDP: two copies of two shards."""
    (saved, _), *_ = run(4, begin, tmp_path / "run", True, True)

    other, checkpoints = Run(False, seed=1), Checkpoints(tmp_path / "run")
    checkpoints.load(other.parts)

    require_equal(other.whole(), saved)
    folder = tmp_path / "run" / "checkpoints" / "step-00000004"
    assert {path.name for path in folder.glob("model.rank*")} == {"model.rank0.safetensors", "model.rank1.safetensors"}


def fail_at_one(folder, at):
    """Three steps; the process ``at`` cannot write the second."""
    trained, checkpoints = Run(True), Checkpoints(folder)
    checkpoints.save(1, trained.parts, {"step": 1})
    checkpoints.wait()

    def full(path, tensors):
        raise OSError(28, "No space left on device", str(path))

    own = writing.write_tensors
    if rank() == at:
        writing.write_tensors = full
    checkpoints.save(2, trained.parts, {"step": 2})
    try:
        checkpoints.save(3, trained.parts, {"step": 3})
    except OSError as error:
        said = str(error)
    writing.write_tensors = own
    checkpoints.save(3, trained.parts, {"step": 3})
    checkpoints.wait()
    return said, checkpoints.steps


@pytest.mark.plain
@pytest.mark.parametrize("at", [0, 1])
def test_an_error_of_one_process_is_one_of_all_and_nothing_half_written_stays(tmp_path, at):
    said = run(2, fail_at_one, tmp_path, at)

    for number, (text, steps) in enumerate(said):
        assert "No space left in" in text and "The checkpoint of step 1 is whole." in text
        assert (f"Process {at} could not write its part of the checkpoint of 2" in text) == (number != at)
        assert steps == [1, 3]
    assert not [*(tmp_path / "checkpoints").glob(".*")]


def two_at_once(folder):
    """What is kept by two writers, each of which is slow on another process."""
    own = writing.write_tensors

    def slowly(path, tensors):
        time.sleep(0.3 * (("one" in str(path)) == (rank() == 0)))
        return own(path, tensors)

    writing.write_tensors = slowly
    parts, one, other = {"model": nn.Linear(3, 3)}, Checkpoints(folder, name="one"), Checkpoints(folder, name="other")
    for step in (1, 2):
        one.save(step, parts, {})
        other.save(10 * step, parts, {})
    again = Checkpoints(folder, name="one")  # talks while they write
    found = again.load(parts)
    one.wait()
    other.wait()
    return one.steps, other.steps, found


def test_two_writers_at_once_do_not_mix_what_they_say(tmp_path):
    for one, other, found in run(2, two_at_once, tmp_path):
        assert (one, other) == ([1, 2], [10, 20])
        assert found == {}


def die_while_writing(folder):
    trained, checkpoints = Run(True), Checkpoints(folder)
    checkpoints.save(1, trained.parts, {"step": 1})
    checkpoints.wait()
    if rank() == 1:
        writing.write_tensors = lambda *_: os.kill(os.getpid(), 9)
    checkpoints.save(2, trained.parts, {"step": 2})
    checkpoints.wait()


def test_a_process_that_dies_while_it_writes_ends_the_others_soon_and_leaves_no_half_checkpoint(tmp_path):
    ended = outcomes(2, die_while_writing, tmp_path, timeout=60.0)

    assert [each.code for each in ended] == [1, -9]
    assert max(each.seconds for each in ended) < 30
    checkpoints = Checkpoints(tmp_path)  # the next start
    assert checkpoints.steps == [1]
    assert checkpoints.load(Run(False, seed=1).parts) == {"step": 1}
    checkpoints.save(2, {}, {})
    checkpoints.wait()
    assert not [*(tmp_path / "checkpoints").glob(".*")]


def load_broken(folder):
    other, checkpoints = Run(True, seed=1), Checkpoints(folder)
    if rank() == 0:
        with pytest.warns(UserWarning, match="model.rank1.safetensors in .* is not there. Using step-00000003 instead"):
            return checkpoints.load(other.parts, SETTINGS)
    return checkpoints.load(other.parts, SETTINGS)


def test_all_processes_pass_over_a_checkpoint_that_lacks_a_shard(tmp_path):
    run(2, begin, tmp_path, True)
    (tmp_path / "checkpoints" / "step-00000004" / "model.rank1.safetensors").unlink()

    assert run(2, load_broken, tmp_path) == [{"step": 3, "settings": SETTINGS}] * 2


def test_a_piece_that_no_index_knows_is_missed(tmp_path):
    run(2, begin, tmp_path, True)
    folder = tmp_path / "checkpoints" / "step-00000004"

    files = {name: entry for name, entry in files_of(folder).items() if name != "index.rank1.json"}

    with pytest.raises(CorruptCheckpointError, match="lacks a piece of '0.weight' of model"):
        Saved(folder, files).read("model", "0.weight")


def place_otherwise():
    tensor = DTensor.from_local(torch.ones(4), init_device_mesh("cpu", (2,)), [Partial()])
    with pytest.raises(ValueError, match=r"cannot hold a tensor that is placed as Partial.* Expected Shard or Replica"):
        box_of(tensor)


@pytest.mark.plain
def test_other_placements_are_refused():
    run(2, place_otherwise)
