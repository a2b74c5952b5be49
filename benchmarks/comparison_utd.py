"""UTD-MHAD: depth video, skeleton and inertial sensor of 27 actions, as features of three small frozen encoders."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from comparison_encoders import Frames, Pretraining, Problem, Series, freeze, target, vectors
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from mmfuse import Batch


def utd_mhad(folder: Path, seed: int, *, quick: bool) -> Problem:
    """Subjects 1, 3, 5 and 7 train, the others test. Its training samples come in two copies."""
    data = np.load(folder / "utd_mhad" / "utd_mhad.npz")
    depth = torch.tensor(np.load(folder / "utd_mhad" / "depth_16x60x80.npz")["depth"])
    labels = torch.tensor(data["action"].astype(int))
    labels = labels - labels.min()
    rows = torch.tensor(np.isin(data["subject"], [1, 3, 5, 7]))
    smaller = torch.nn.functional.avg_pool2d(depth.float() / 255, 2)
    whole = {
        "inertial": _resampled(data["inertial"], data["inertial_offset"], 160),
        "skeleton": _resampled(_body(data["skeleton"], data["skeleton_offset"]), data["skeleton_offset"], 64),
        "depth": smaller,
    }
    axes = {"inertial": (0, 1), "skeleton": (0, 1), "depth": (0, 1, 2, 3)}
    whole = {
        name: (x - x[rows].mean(axes[name])) / (x[rows].std(axes[name]) + 1e-6)  # by the training subjects
        for name, x in whole.items()
    }
    splits = [
        Batch({name: vectors(x[chosen]) for name, x in whole.items()}, target(labels[chosen]))
        for chosen in (rows, ~rows)
    ]
    torch.manual_seed(seed)
    encoders = {"inertial": Series(6), "skeleton": Series(60), "depth": Frames(30, 40)}
    epochs = {"inertial": 80, "skeleton": 80, "depth": 40}
    how = {
        name: Pretraining(labels[rows], 27, 1 if quick else epochs[name], _jitter(name), copies=1 if quick else 2)
        for name in encoders
    }
    return Problem(*freeze(encoders, *splits, how, seed=seed), classes=27, epochs=2 if quick else 8, batch_size=32)


def _resampled(values: np.ndarray, offsets: np.ndarray, steps: int) -> Tensor:
    """Sequences of unequal length, each at so many equal steps: (sequence, step, channel)."""
    parts = [torch.tensor(values[a:b], dtype=torch.float32).T for a, b in pairwise(offsets)]
    return torch.stack([interpolate(x[None], steps, mode="linear", align_corners=True)[0].T for x in parts])


def _body(skeleton: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Joints from the body's middle, in lengths of its spine: where somebody stands and how tall does not matter."""
    parts = []
    for a, b in pairwise(offsets):
        spine = np.linalg.norm(skeleton[a:b, 3] - skeleton[a:b, 2], axis=-1).mean()
        parts.append((skeleton[a:b] - skeleton[a:b, 3:4]) / spine)
    return np.concatenate(parts).reshape(len(skeleton), -1)


def _jitter(name: str):
    """Noise, another size and another tempo, as another person would give them."""

    def augment(batch: Batch, generator: torch.Generator) -> Batch:
        x = batch.inputs[name].values
        size = 1 + 0.1 * torch.randn(len(x), *(1,) * (x.dim() - 1), generator=generator)
        changed = x * size + 0.05 * torch.randn(x.shape, generator=generator)
        if name == "depth":
            changed = torch.roll(changed, int(torch.randint(-2, 3, (), generator=generator)), dims=3)
        else:
            changed = _warped(changed, generator)
        if name == "skeleton":
            changed = _turned(changed, generator)
        return Batch({name: vectors(changed)}, batch.targets)

    return augment


def _warped(series: Tensor, generator: torch.Generator) -> Tensor:
    """Each series cut by up to a tenth at both ends, and stretched to its length again."""
    start, end = (0.1 * torch.rand(len(series), 1, generator=generator) for _ in range(2))
    places = start + (1 - end - start) * torch.linspace(0, 1, series.shape[1])
    grid = torch.stack([2 * places - 1, torch.zeros_like(places)], dim=-1)[:, None]
    return grid_sample(series.transpose(1, 2)[:, :, None], grid, align_corners=True)[:, :, 0].transpose(1, 2)


def _turned(joints: Tensor, generator: torch.Generator) -> Tensor:
    """Each body turned a little about the vertical axis."""
    angle = 0.3 * torch.randn(len(joints), generator=generator)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], dim=1).unflatten(1, (3, 3))
    return torch.einsum("btjk,bkl->btjl", joints.unflatten(-1, (-1, 3)), turn).flatten(2)
