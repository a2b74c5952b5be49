"""Encoders that skip absent samples: the time of a step falls with the share that is absent."""

import copy

import torch
from common import Row, Run
from data_measure import Case, Setting, slower
from training_models import DEVICE

from mmfuse import Batch, Input, MultimodalModel, Target, dims_of
from mmfuse.encoders import SkipAbsent, ViTEncoder
from mmfuse.fusion import Concat
from mmfuse.tasks import Classification

SHARES, OVER = (0.0, 0.25, 0.5, 0.75), 0.05
BATCH = 16


def absent(setting: Setting) -> list[Row]:
    """Forward and backward of an image model with SkipAbsent, to the same without."""
    size = 32 if setting.quick else 96
    torch.manual_seed(0)
    plain = ViTEncoder.preset("tiny" if setting.quick else "small", size=size)
    rows = []
    for share in SHARES:
        batch = _batch(size, share)
        skipping, whole = (_step(make(copy.deepcopy(plain)), batch) for make in (SkipAbsent, lambda encoder: encoder))
        name = f"skipping absent images, {share:.0%} absent: time of a step to no skipping"
        rows.append(slower(setting, name, skipping, whole, 1 - share + OVER))
    return rows


def _step(encoder: torch.nn.Module, batch: Batch) -> Run:
    encoders = {"image": encoder}
    model = MultimodalModel(encoders, Concat(dims_of(encoders), 64), {"label": Classification(64, 4)}).to(DEVICE)

    def step() -> None:
        model.zero_grad()
        model(batch).predictions["label"].square().mean().backward()

    return step


def _batch(size: int, share: float) -> Batch:
    random = torch.Generator().manual_seed(0)
    present = torch.arange(BATCH) >= share * BATCH
    images = torch.randint(0, 256, (BATCH, 3, size, size), generator=random, dtype=torch.uint8)
    target = Target(torch.zeros(BATCH, dtype=torch.long), torch.ones(BATCH, dtype=torch.bool))
    order = torch.randperm(BATCH, generator=random)
    return Batch({"image": Input(images, present[order])}, {"label": target}).to(DEVICE)


CASES: dict[str, Case] = {"skipping absent": absent}
