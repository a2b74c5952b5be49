"""Checkpoints: whole and verified or not there, equal to the bit, and nothing changed by a load that fails."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_training import model_of_vectors
from torch import nn

from mmfuse._files import CorruptCheckpointError
from mmfuse.persistence.manifest import first_difference, write_manifest
from mmfuse.training.best import Best
from mmfuse.training.checkpoints import writing
from mmfuse.training.checkpoints.checkpoint import Checkpoints
from mmfuse.training.checkpoints.host_copy import HostCopy, checksums
from mmfuse.training.checkpoints.places import Places, files_of
from mmfuse.training.checkpoints.state_tree import put_together, take_apart
from mmfuse.training.seeds import random_states, restore_random_states, seed_everything

SETTINGS = {"seed": 3, "rates": (1e-3, 1e-4)}


class Run:
    """A small training: frozen weights, buffers, tied weights, an optimizer, a schedule."""

    def __init__(self, seed=0, width=6, dtype=torch.float32):
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 3), nn.Linear(4, width))
        self.model = self.model.to(dtype)
        self.model[0].requires_grad_(False)
        self.model[3].weight = self.model[0].weight  # tied, and frozen
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.01, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 0.9**step)
        self.parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    def step(self):
        values = torch.randn(5, 4, dtype=self.model[0].weight.dtype)
        self.optimizer.zero_grad()
        self.model[:3](values).square().mean().backward()
        self.optimizer.step()
        self.schedule.step()
        return self

    @property
    def state(self):
        return {name: take_apart(part.state_dict(), name) for name, part in self.parts.items()}


def require_equal(found, expected):
    """Of two runs: every tensor to the bit, and all the rest."""
    for name, (tensors, rest) in expected.state.items():
        own, own_rest = found.state[name]
        assert own.keys() == tensors.keys()
        assert own_rest == rest
        for path, tensor in tensors.items():
            assert torch.equal(own[path], tensor), f"{name} {path}"
            assert own[path].dtype == tensor.dtype


def saved(folder, steps=(1, 2, 3), keep=3, **options):
    """A run that was saved at some steps, with its checkpoints."""
    run, checkpoints = Run(**options), Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, run.step().parts, {"step": step, "settings": SETTINGS})
    checkpoints.wait()
    return run, checkpoints


def test_a_run_goes_on_from_its_checkpoint_to_the_bit(tmp_path):
    run, _ = saved(tmp_path)
    other, checkpoints = Run(seed=1), Checkpoints(tmp_path)
    random.random()

    progress = checkpoints.load(other.parts, SETTINGS)
    require_equal(other, run)
    checkpoints.restore_random()
    other.step()
    checkpoints.restore_random()
    run.step()

    assert progress == {"step": 3, "settings": SETTINGS}
    require_equal(other, run)


def test_without_a_checkpoint_nothing_is_loaded_and_nothing_changed(tmp_path):
    run, expected = Run(), Run()
    checkpoints = Checkpoints(tmp_path)
    before = random_states()

    assert checkpoints.load(run.parts, SETTINGS) is None
    checkpoints.restore_random()

    require_equal(run, expected)
    assert torch.equal(random_states()["torch"], before["torch"])
    assert checkpoints.steps == []


@pytest.mark.plain  # the shape checks draw random numbers themselves
def test_all_random_states_come_back_and_more_than_those_of_now(tmp_path):
    run, checkpoints = Run(), Checkpoints(tmp_path)
    seed_everything(5)
    random.gauss(0, 1)
    numpy.random.standard_normal()
    begin = random_states()

    def draw():
        return [torch.rand(1).item(), random.gauss(0, 1), random.random(), numpy.random.standard_normal()]

    first = draw()
    checkpoints.save(1, run.parts, {}, random={"epoch": begin})
    second = draw()
    checkpoints.wait()
    other = Checkpoints(tmp_path)
    other.load(run.parts)

    other.restore_random("epoch")
    assert draw() == first
    other.restore_random()
    assert draw() == second
    other.restore_random("never saved")  # as for a process that was not there: seed, step and rank decide
    new = draw()
    other.restore_random("never saved")
    assert draw() == new != first


@pytest.mark.plain
def test_random_states_without_numpy_or_with_a_half_used_pair_come_back():
    random.seed(1)
    random.gauss(0, 1)
    states = random_states()
    expected = random.gauss(0, 1), random.random()
    states.pop("numpy")

    restore_random_states(states)

    assert (random.gauss(0, 1), random.random()) == expected


def test_what_is_written_is_safetensors_and_strict_json(tmp_path):
    run, _ = saved(tmp_path, steps=(7,))
    folder = tmp_path / "checkpoints" / "step-00000007"

    names = sorted(path.name for path in folder.iterdir())

    assert names == [
        "MANIFEST.json",
        "index.rank0.json",
        "model.safetensors",
        "optimizer.safetensors",
        "random.rank0.safetensors",
        "state.json",
    ]
    for name in names:
        if name.endswith("json"):
            json.loads((folder / name).read_text(), parse_constant=pytest.fail)
    tensors = load_file(folder / "model.safetensors")
    assert torch.equal(tensors["2.weight"], run.model[2].weight)
    save_file(tensors, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").stat().st_size == (folder / "model.safetensors").stat().st_size


def test_the_newest_by_number_are_kept(tmp_path):
    saved(tmp_path, steps=(998, 999, 1000), keep=2)
    other = tmp_path / "checkpoints"
    names = sorted(path.name for path in other.glob("step-*"))
    (other / names[1]).rename(other / "step-1000")  # numbers are compared as numbers, not as text
    for path in other.iterdir():
        os.utime(path, (0, 0))  # and not by the clock

    assert names == ["step-00000999", "step-00001000"]
    assert Checkpoints(tmp_path).steps == [999, 1000]


def test_nothing_older_goes_before_the_newer_is_verified(tmp_path, monkeypatch):
    run, checkpoints = saved(tmp_path, steps=(1,), keep=1)
    place = tmp_path / "checkpoints"
    there = []
    own = Places.prune

    def look(self, newest, keep, needed):
        there.append((sorted(p.name for p in place.glob("step-*")), first_difference(newest, files_of(newest))))
        own(self, newest, keep, needed)

    monkeypatch.setattr(Places, "prune", look)
    checkpoints.save(2, run.parts, {})
    checkpoints.wait()

    assert there == [(["step-00000001", "step-00000002"], None)]
    assert checkpoints.steps == [2]


def test_a_number_that_is_there_is_not_overwritten_and_the_later_one_counts(tmp_path):
    run, checkpoints = saved(tmp_path, steps=(5,), keep=3)
    first = (tmp_path / "checkpoints" / "step-00000005" / "MANIFEST.json").read_bytes()

    checkpoints.save(5, run.step().parts, {"step": "again"})
    checkpoints.wait()

    assert (tmp_path / "checkpoints" / "step-00000005" / "MANIFEST.json").read_bytes() == first
    assert Checkpoints(tmp_path).load(run.parts) == {"step": "again"}
    assert checkpoints.steps == [5, 5]


def test_steps_that_are_needed_stay(tmp_path):
    run, checkpoints = Run(), Checkpoints(tmp_path, keep=1, name="best", unit="epoch", needed=lambda: {1, 3})
    for epoch in range(1, 6):
        checkpoints.save(epoch, run.step().parts, {})
    checkpoints.wait()

    assert sorted(path.name for path in (tmp_path / "best").glob("epoch-*")) == [
        "epoch-00000001",
        "epoch-00000003",
        "epoch-00000005",
    ]


def test_what_changes_after_the_call_is_not_in_the_file(tmp_path, monkeypatch):
    run, checkpoints = Run(), Checkpoints(tmp_path)
    go, own = threading.Event(), writing.write_tensors

    def late(path, tensors):
        assert go.wait(30)
        return own(path, tensors)

    monkeypatch.setattr(writing, "write_tensors", late)
    history = [1]
    for _ in range(2):  # the second one uses the buffers of the first
        run.step()
        go.clear()
        expected = {name: take_apart_copy(part) for name, part in run.parts.items()}
        checkpoints.save(1, run.parts, {"history": history})
        run.step()
        history.append(2)
        go.set()
        checkpoints.wait()

    other = Run(seed=1)
    assert checkpoints.load(other.parts) == {"history": [1, 2]}
    for name, (tensors, rest) in expected.items():
        found, found_rest = other.state[name]
        assert found_rest == rest
        for path, tensor in tensors.items():
            assert torch.equal(found[path], tensor)


def take_apart_copy(part):
    tensors, rest = take_apart(part.state_dict(), "part")
    return {path: tensor.clone() for path, tensor in tensors.items()}, rest


def test_a_process_that_ends_at_once_ends_after_its_checkpoint(tmp_path):
    code = f"""
import torch
from mmfuse._files import CorruptCheckpointError, hash_file
from mmfuse.persistence.manifest import first_difference, write_manifest
from mmfuse.training.checkpoints import writing
from mmfuse.training.checkpoints.checkpoint import Checkpoints
from mmfuse.training.checkpoints.host_copy import HostCopy, checksums
from mmfuse.training.checkpoints.places import Places, files_of
part = {{"model": torch.nn.Linear(1000, 1000)}}
Checkpoints({str(tmp_path / "file")!r}).save(7, part, {{}})
Checkpoints({str(tmp_path)!r}).save(1, part, {{"step": 1}})
"""
    (tmp_path / "file").write_text("not a folder")
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)

    assert "the checkpoint of step 7 could not be written" in done.stderr
    assert done.returncode == 1  # nobody has waited for it
    assert Checkpoints(tmp_path).load({"model": nn.Linear(1000, 1000)}) == {"step": 1}


def test_frozen_parameters_are_written_once(tmp_path):
    run, _ = saved(tmp_path, steps=(1, 2, 3))
    place = tmp_path / "checkpoints"
    frozen = [*place.glob("frozen-*")]
    other = Checkpoints(tmp_path, keep=1)
    other.load(run.parts)
    other.save(4, run.step().parts, {})
    other.wait()

    assert [*place.glob("frozen-*")] == frozen and len(frozen) == 1
    assert set(load_file(frozen[0])) == {"model/0.weight", "model/0.bias"}  # and not the other name of a tied one
    assert set(load_file(place / "step-00000004" / "model.safetensors")) >= {"2.weight", "3.bias"}
    again = Run(seed=1)
    other.load(again.parts)
    require_equal(again, run)


def test_what_is_frozen_later_or_moves_without_a_gradient_is_right_too(tmp_path):
    run, checkpoints = Run(), Checkpoints(tmp_path, keep=1)
    place, sizes = tmp_path / "checkpoints", []

    def keep(step):
        checkpoints.save(step, run.parts, {})
        checkpoints.wait()
        other = Run(seed=1)
        assert checkpoints.load(other.parts) == {}
        require_equal(other, run)
        sizes.append((place / f"step-{step:08d}" / "model.safetensors").stat().st_size)

    keep(1)
    run.step().model[2].requires_grad_(False)
    keep(2)
    keep(3)
    run.model[0].weight.data.neg_()  # as a momentum encoder moves, unseen by torch's own counter of versions
    keep(4)
    run.model[0].weight.data = run.model[0].weight * 0.5
    run.model[3].weight = run.model[0].weight
    keep(5)
    run.model[2].requires_grad_(True)
    keep(6)

    assert sizes[1] == sizes[2] < sizes[0]
    assert sizes[3] == sizes[4] > sizes[2]
    used = set(files_of(place / "step-00000006"))
    assert {f"../{path.name}" for path in place.glob("frozen-*")} == {name for name in used if "frozen" in name}


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (0, 4), (16, 16)])
def test_a_checksum_changes_with_any_value_and_with_nothing_else(dtype, shape):
    tensor = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    (before,) = checksums({"x": tensor}).values()
    larger = torch.cat([tensor.reshape(-1), tensor.reshape(-1)])[tensor.numel() :].reshape(shape)  # not aligned

    assert checksums({"x": larger, "y": tensor.clone()}) == {"x": before, "y": before}
    for i in range(tensor.numel()):
        changed = tensor.clone()
        changed.view(-1)[i] = 1 - changed.view(-1)[i].long()
        assert checksums({"x": changed})["x"] != before
    if dtype == torch.float64 and tensor.numel() > 1 and tensor.any():
        assert checksums({"x": -tensor})["x"] != before


@pytest.mark.parametrize("distance", [1, 15, 16, 17, 64])
def test_a_checksum_changes_when_two_words_change_places(distance):
    tensor = torch.arange(100)
    other = tensor.clone()
    other[20], other[20 + distance] = tensor[20 + distance], tensor[20]

    assert checksums({"x": other}) != checksums({"x": tensor})


@pytest.mark.plain
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda run: Run(width=7),
            r"The model of the checkpoint in .* does not fit: .*other shapes are \['0.weight: \(6, 4",
        ),
        (lambda run: Run(dtype=torch.float64), r"has other types \['0.weight: torch.float32 for torch.float64'"),
        (
            lambda run: with_part(run, "model", nn.Sequential(nn.Linear(4, 6))),
            "does not fit: it has besides .*'1.bias'",
        ),
        (lambda run: with_part(run, "average", nn.Linear(1, 1)), "has no state of 'average', only of .'model', 'optim"),
        (
            lambda run: with_part(run, "optimizer", torch.optim.AdamW([run.model[2].weight])),
            "groups of .'5 parameters'",
        ),
        (lambda run: with_part(run, "schedule", Refuses()), "cannot take this"),
    ],
)
def test_a_load_that_fails_changes_nothing(tmp_path, spoil, message):
    saved(tmp_path)
    run = spoil(Run(seed=1).step())
    before = {name: take_apart_copy(part) for name, part in run.parts.items()}
    random_before = random_states()["torch"]

    with pytest.raises((ValueError, RuntimeError), match=message):
        Checkpoints(tmp_path).load(run.parts, SETTINGS)

    assert torch.equal(random_states()["torch"], random_before)
    for name, (tensors, rest) in before.items():
        found, found_rest = take_apart(run.parts[name].state_dict(), name)
        assert found_rest == rest and found.keys() == tensors.keys()
        for path, tensor in tensors.items():
            assert torch.equal(found[path], tensor), f"{name} {path}"


def with_part(run, name, part):
    run.parts[name] = part
    return run


class Refuses:
    """A part that takes only its own state."""

    def state_dict(self):
        return {"own": 1}

    def load_state_dict(self, state):
        if state != {"own": 1}:
            raise RuntimeError("cannot take this")


@pytest.mark.plain
def test_a_run_goes_on_with_its_settings_only(tmp_path):
    run, checkpoints = saved(tmp_path)

    with pytest.raises(
        ValueError, match=r"fit cannot go on with the run in .*: it got seed=4 for 3. Expected what the "
    ):
        checkpoints.load(run.parts, {**SETTINGS, "seed": 4})
    with pytest.raises(ValueError, match="it got new=1 for None"):
        checkpoints.load(run.parts, {**SETTINGS, "new": 1})
    with pytest.raises(
        ValueError, match=r"has no checkpoint of step 9, only of \[1, 2, 3\]. Expected one that is there"
    ):
        checkpoints.load(run.parts, SETTINGS, step=9)
    assert checkpoints.load(run.parts, SETTINGS, step=2)["step"] == 2


@pytest.mark.plain
def test_a_checkpoint_of_a_newer_mmfuse_says_so(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writing, "VERSION", 3)
        run, checkpoints = saved(tmp_path)

    with pytest.raises(ValueError, match="has version 3. Expected 2 at most: a newer mmfuse wrote it. Update mmfuse"):
        checkpoints.load(run.parts, SETTINGS)


@pytest.mark.plain
@pytest.mark.parametrize(
    "name", ["../../outside.safetensors", "/etc/passwd", "../frozen-x.safetensors", ".hidden.json"]
)
def test_a_manifest_names_files_of_its_checkpoint_only(tmp_path, name):
    run, checkpoints = saved(tmp_path, steps=(1,))
    folder = tmp_path / "checkpoints" / "step-00000001"
    files = files_of(folder)
    write_manifest(folder, {**files, name: files["state.json"]}, version=2)

    with pytest.raises(CorruptCheckpointError, match=r"MANIFEST.json in .* names \["):
        checkpoints.load(run.parts, SETTINGS)


@pytest.mark.plain
def test_what_cannot_be_saved_is_refused_at_the_call(tmp_path):
    class Part:
        def __init__(self, state):
            self.state = state

        def state_dict(self):
            return self.state

    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(TypeError, match="The state of part holds a set at 'a/1'. Expected tensors, numbers, text"):
        checkpoints.save(1, {"part": Part({"a": [0, {1}]})}, {})
    with pytest.raises(TypeError, match="The state of part has the key 1.5. Expected text or whole numbers"):
        checkpoints.save(1, {"part": Part({1.5: 0})}, {})
    with pytest.raises(TypeError, match="The state of part holds a ndarray at 'a'"):
        checkpoints.save(1, {"part": Part({"a": numpy.ones(1)})}, {})
    with pytest.raises(TypeError, match=r"The progress of a checkpoint holds tensors: \['loss'\]"):
        checkpoints.save(1, {}, {"loss": torch.ones(())})
    for name in ("../x", "random", "a.b"):
        with pytest.raises(ValueError, match=f"A part of a checkpoint cannot be named '{name}'"):
            checkpoints.save(1, {name: Part({})}, {})
    with pytest.raises(ValueError, match="Checkpoints got keep=0. Expected a number above 0"):
        Checkpoints(tmp_path, keep=0)
    assert not [*tmp_path.iterdir()]


def test_any_state_comes_back_as_it_was():
    tensor = torch.arange(3)
    state = {
        "plain": [1, 2.5, "text", None, True, {}, [], ()],
        "numbers": {0: "zero", -1: "minus one", "0": "text"},
        "marks": {"$0": 1, "$tensor": 2, "$$": 3},
        "floats": (float("inf"), -float("inf"), 0.1 + 0.2, 1e-320),
        "tensors": [tensor, (tensor + 1, {"deep": tensor + 2})],
        "a": {"b": tensor + 3},
        "a/b": tensor + 4,
    }

    tensors, rest = take_apart(state, "part")
    found = put_together(json.loads(json.dumps(rest, allow_nan=False)), tensors)

    assert len(tensors) == 5
    assert repr(found) == repr(state)
    (nan,) = put_together(take_apart([float("nan")], "part")[1], {})
    assert nan != nan


FIXTURE = Path(__file__).parent / "checkpoint_version_2"


def fixture_run():
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    return {"model": model, "optimizer": optimizer}


def test_a_checkpoint_that_an_older_mmfuse_has_written_is_read(tmp_path):
    """The folder was written once by version 2 and is never written again."""
    shutil.copytree(FIXTURE, tmp_path / "run")
    parts = fixture_run()

    progress = Checkpoints(tmp_path / "run").load(parts, {"seed": 0})

    assert progress == {"step": 1, "settings": {"seed": 0}, "losses": [1.5, pytest.approx(float("nan"), nan_ok=True)]}
    assert torch.equal(parts["model"].weight, torch.tensor([[1.0, 2.0]]))
    assert torch.equal(parts["optimizer"].state[parts["model"].weight]["exp_avg"], torch.tensor([[0.25, 0.5]]))
    assert parts["optimizer"].param_groups[0]["betas"] == (0.9, 0.999)


def train_with_best(folder, losses, *, stop_after=None, model=None):
    """Epochs with these validation losses; each fills the model with its number. Ends between best and checkpoint."""
    model = model or model_of_vectors()
    best, checkpoints = Best(model, "loss", folder), Checkpoints(folder, keep=1)
    progress = checkpoints.load({"model": model, "best": best}) or {"epoch": 0}
    for epoch in range(progress["epoch"] + 1, len(losses) + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(epoch)
        best.look(epoch, {"loss": losses[epoch - 1], "sort/loss": 0.0, "size/loss": 0.0})
        best.save_if_new(epoch)
        if epoch == stop_after:
            return None
        checkpoints.save(epoch, {"model": model, "best": best}, {"epoch": epoch})
    checkpoints.wait()
    best.restore()
    return best.epoch, {parameter.flatten()[0].item() for parameter in model.parameters()}


def test_the_best_weights_are_those_that_the_checkpoint_speaks_of_after_any_crash(tmp_path):
    losses = [3.0, 1.0, 2.0, 0.5, 4.0]
    assert train_with_best(tmp_path, losses[:3]) == (2, {2.0})
    for _ in range(2):
        assert train_with_best(tmp_path, losses, stop_after=4) is None  # killed: best is epoch 4, the checkpoint is not
        assert train_with_best(tmp_path, losses[:3]) == (2, {2.0})
    assert train_with_best(tmp_path, losses) == (4, {4.0})

    # Epoch 2 was still spoken of when epoch 4 was written; the next one would take it away.
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"epoch-00000002", "epoch-00000004.2"}


@pytest.mark.plain
def test_best_weights_that_are_broken_are_told(tmp_path):
    train_with_best(tmp_path, [1.0])
    path = tmp_path / "best" / "epoch-00000001" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(CorruptCheckpointError, match="No checkpoint in .*best is whole: model.safetensors in .* bytes"):
        train_with_best(tmp_path, [1.0])


class OnGPU(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = True
    device = torch.device("cuda:1")


def test_a_gpu_is_waited_for_once_and_its_copies_go_to_pinned_buffers_that_are_kept(monkeypatch):
    made, waited, own = [], [], torch.empty

    def empty(shape, *, dtype, pin_memory):
        made.append((tuple(shape), pin_memory))
        return own(shape, dtype=dtype)

    copy = HostCopy()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        patch.setattr(torch.cuda, "synchronize", waited.append)
        for value in (1.0, 2.0):
            tensors = {
                "there": torch.full((2, 3), value).as_subclass(OnGPU),
                "too": torch.full((4,), value).as_subclass(OnGPU),
                "here": torch.full((5,), value),
            }
            copies = copy(tensors)
            for name, tensor in tensors.items():
                assert torch.equal(copies[name], tensor.as_subclass(torch.Tensor))

    assert made == [((2, 3), True), ((4,), True), ((5,), False)]
    assert waited == [torch.device("cuda:1")] * 2


def test_the_random_state_of_the_own_gpu_is_kept(monkeypatch):
    given = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", given.append)

    states = random_states()
    restore_random_states(states)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    restore_random_states(states)  # a run that goes on without a GPU

    assert given == [torch.tensor([7], dtype=torch.uint8)]


def test_only_copies_that_are_waited_for_are_left_to_run(monkeypatch):
    said = []
    copy = torch.Tensor.copy_
    monkeypatch.setattr(
        torch.Tensor, "copy_", lambda self, other, non_blocking=False: (said.append(non_blocking), copy(self, other))[1]
    )

    HostCopy()({"a": torch.ones(3)})

    assert said == [False]  # on Apple's GPU, for one, the copy would not be there yet
