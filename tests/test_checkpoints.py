"""Checkpoints: whole and verified or not there, equal to the bit, and nothing changed by a load that fails."""

import json
import random

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mmfuse.training.checkpoint import Checkpoints
from mmfuse.training.seeds import random_states, restore_random_states, seed_everything
from mmfuse.training.state_tree import take_apart

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
