"""UTD-MHAD as a table: depth clips, inertial series and skeletons, all in memory; and what others reached on it."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from mmfuse.data import Table, read_table

ACTIONS = (
    "swipe left", "swipe right", "wave", "clap", "throw", "cross arms", "basketball shot", "draw x", "draw circle",
    "draw circle counter-clockwise", "draw triangle", "bowl", "box", "baseball swing", "tennis swing", "arm curl",
    "tennis serve", "push", "knock", "catch", "pick up and throw", "jog", "walk", "sit to stand", "stand to sit",
    "lunge", "squat",
)  # fmt: skip
ICIP = "Chen, Jafari, Kehtarnavaz, ICIP 2015"  # https://doi.org/10.1109/ICIP.2015.7350781
SVM = "SVM on resampled signals (ours)"  # RBF kernel, untuned, every series at equal numbers of steps
PUBLISHED = (  # on the same subjects
    {"model": ICIP, "sees": ("depth",), "accuracy": 0.661},
    {"model": ICIP, "sees": ("inertial",), "accuracy": 0.672},
    {"model": ICIP, "sees": ("depth", "inertial"), "accuracy": 0.791},
    {"model": SVM, "sees": ("inertial",), "accuracy": 0.793},
    {"model": SVM, "sees": ("skeleton",), "accuracy": 0.763},
    {"model": SVM, "sees": ("inertial", "skeleton"), "accuracy": 0.833},
)
ROWS, COLUMNS = slice(12, 60), slice(16, 64)  # where people are in the 60 x 80 pixels


def read_recordings(folder: Path) -> Table:
    """One row a recording. Cells are arrays, held in memory."""
    data, clips = dict(np.load(folder / "utd_mhad.npz")), np.load(folder / "depth_16x60x80.npz")["depth"]
    inertial, skeleton = (_cut(data[name], data[f"{name}_offset"]) for name in ("inertial", "skeleton"))
    return read_table(
        {
            "depth": np.stack(
                [show_motion(clip) for clip in clips]
            ),  # (recording, time, channel, height, width), uint8
            "inertial": [at_one_tempo(steps, 96) for steps in inertial],  # (time, 6): acceleration and rotation
            "skeleton": [at_one_tempo(centre_body(joints), 64) for joints in skeleton],  # (time, 60)
            "subject": data["subject"],
            "action": [ACTIONS[number] for number in data["action"]],
        }
    )


def show_motion(clip: np.ndarray) -> np.ndarray:
    """Depth (time, height, width), 0 where nobody is, as three channels: how near, what came nearer, what went away.

    Nearness is measured from the middle of the body, so that it does not matter where somebody stands.
    """
    clip = clip[:, ROWS, COLUMNS].astype(np.float32)
    body = clip > 0
    middle = np.median(clip[body]) if body.any() else 0
    near = np.where(body, np.clip(128 + 4 * (middle - clip), 40, 255), 0)  # 4 grey levels are 16 mm
    change = np.diff(near, axis=0, prepend=near[:1])
    return np.stack([near, change.clip(0), (-change).clip(0)], axis=1).astype(np.uint8)


def at_one_tempo(steps: np.ndarray, count: int) -> np.ndarray:
    """A series at so many steps, from its start to its end: the same moment of the action at the same step."""
    places = np.linspace(0, len(steps) - 1, count)
    before = np.minimum(places.astype(int), max(len(steps) - 2, 0))
    after, share = np.minimum(before + 1, len(steps) - 1), (places - before)[:, None]
    return ((1 - share) * steps[before] + share * steps[after]).astype(np.float32)


def centre_body(joints: np.ndarray) -> np.ndarray:
    """Joints (time, 20, 3) from the middle of the body, in lengths of its spine: (time, 60)."""
    spine = np.linalg.norm(joints[:, 3] - joints[:, 2], axis=-1).mean()
    return ((joints - joints[:, 3:4]) / max(spine, 1e-6)).reshape(len(joints), -1)


def _cut(steps: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    """All series one after the other -> one array each."""
    return [steps[start:end] for start, end in pairwise(offsets)]
