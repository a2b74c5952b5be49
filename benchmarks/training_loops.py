"""One training, written five times: by ``fit`` and ``train_epoch``, and by hand, as one would and as one should."""

import contextlib
import copy
import io
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from training_turns import Loop

from mmfuse import Batch, MultimodalModel
from mmfuse.losses import Sum
from mmfuse.training import fit, make_optimizer, parameter_groups, train_epoch

RATE, CLIP, READ_EVERY = 1e-3, 1.0, 50


def loops_of(model: MultimodalModel) -> dict[str, Loop]:
    """Each loop with a copy of the model."""
    written: dict[str, Callable[[MultimodalModel, Iterable[Batch]], None]] = {
        "fit": by_fit,
        "train_epoch": by_train_epoch,
        "hand-written": by_hand,
        "naive": naively,
    }
    return {name: partial(loop, copy.deepcopy(model)) for name, loop in written.items()}


def by_fit(model: MultimodalModel, batches: Iterable[Batch]) -> None:
    """As users call it, with its bar, clipping and schedule."""
    with contextlib.redirect_stderr(io.StringIO()):
        silent_fit(model, batches, progress=True)


def silent_fit(model: MultimodalModel, batches: Iterable[Batch], *, progress: bool = False) -> None:
    """Without a bar, which reads a loss whenever it is drawn."""
    fit(model, batches, epochs=1, learning_rate=RATE, precision="float32", progress=progress)


def by_train_epoch(model: MultimodalModel, batches: Iterable[Batch]) -> None:
    """The plain loop, its losses added up on the device and read every 50 steps."""
    optimizer = make_optimizer(parameter_groups(model, learning_rate=RATE))
    total = torch.zeros((), device=_device(model))
    losses = train_epoch(model, batches, weigh=Sum(), optimizer=optimizer, clip=CLIP)
    for step, each in enumerate(losses, start=1):
        total += each["label"]
        if step % READ_EVERY == 0:
            float(total)


def by_hand(model: MultimodalModel, batches: Iterable[Batch]) -> None:
    """The bar: fused AdamW that decays matrices only, clipping, and the loss added up, read every 50 steps."""
    matrices, others = ([p for p in model.parameters() if (p.dim() > 1) is deep] for deep in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
    device, parameters = _device(model), list(model.parameters())
    total = torch.zeros((), device=device)
    model.train()
    for step, batch in enumerate(batches, start=1):
        batch = batch.to(device, non_blocking=True)
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(batch).predictions["label"], batch.targets["label"].values)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        total += loss.detach()
        if step % READ_EVERY == 0:
            float(total)


def naively(model: MultimodalModel, batches: Iterable[Batch]) -> None:
    """What a tutorial shows: AdamW as it comes, nothing clipped, nothing logged."""
    optimizer, device = torch.optim.AdamW(model.parameters(), lr=RATE), _device(model)
    model.train()
    for batch in batches:
        batch = batch.to(device)
        optimizer.zero_grad()
        F.cross_entropy(model(batch).predictions["label"], batch.targets["label"].values).backward()
        optimizer.step()


def _device(model: MultimodalModel) -> torch.device:
    return next(model.parameters()).device
