"""``fit``: the plain loop with the defaults that a real run needs."""

import time
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mmfuse._checks import require_positive
from mmfuse.contracts import Batch
from mmfuse.data.loading.loader import tell_dropped
from mmfuse.evaluation.collect import require_batches
from mmfuse.evaluation.evaluate import evaluate
from mmfuse.losses import Sum
from mmfuse.model import MultimodalModel
from mmfuse.training.best import Best
from mmfuse.training.checkpoint import load_checkpoint, save_checkpoint
from mmfuse.training.history import History
from mmfuse.training.loop import Balance, train_epoch
from mmfuse.training.meter import Meter
from mmfuse.training.optimizer import check_partition, make_optimizer, parameter_groups, renew_rates, warmup_cosine
from mmfuse.training.precision import Precision
from mmfuse.training.seeds import seed_everything


def fit(  # noqa: PLR0913  flat keywords, as users of every other trainer expect; a settings object would hide them
    model: MultimodalModel,
    train: Iterable[Batch],
    validation: Iterable[Batch] | None = None,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    pretrained_learning_rate: float | None = None,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    weigh: nn.Module | None = None,
    balance: Sequence[Balance] = (),
    accumulate: int = 1,
    clip: float | None = 1.0,
    precision: str = "auto",
    device: torch.device | str | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    select: str = "loss",
    patience: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train a model; with validation batches, leave it with the weights of its best epoch.

    Never give the test set as ``validation``: the epoch is chosen by it, so its numbers are too good.

    Args:
        model: moved to ``device``.
        train: batches, with a length: a ``Loader``, or a list.
        validation: batches by which the best epoch is chosen.
        epochs: passes over ``train``.
        learning_rate: highest rate of new parameters (AdamW).
        pretrained_learning_rate: highest rate of pretrained encoders; a tenth of ``learning_rate`` if None.
        weight_decay: of matrices; biases, norms and other vectors are not decayed.
        warmup: share of the steps in which the rates rise; after that they fall to zero along a cosine.
        weigh: losses of the tasks -> one loss; their sum if None. Its parameters are trained too.
        balance: rules that edit the gradients after ``backward``.
        accumulate: batches in one optimizer step.
        clip: largest norm of all gradients together; None: no limit.
        precision: "auto", "float32", "bf16" or "fp16".
        device: a GPU if there is one, if None.
        folder: where checkpoints go: ``last`` after every epoch, and ``best``. None: the best is kept in memory.
        resume: go on from ``folder/last`` if there is one, with the rates, decay, ``select`` and ``seed`` of then.
        select: number of the validation report by which the best epoch is chosen: "loss" or "task/metric".
        patience: stop after so many epochs without a better one.
        seed: of dropout and everything else that is random in training.
        progress: show a bar.

    Returns:
        The losses, metrics, rates and times of every epoch.

    Raises:
        NonFiniteError: a loss or gradient is not finite. No weight has been changed by it.
    """
    batches = _require_batches(train, validation, select, patience)
    positive = {"epochs": epochs, "accumulate": accumulate, "clip": clip, "patience": patience}
    require_positive("fit", **{name: value for name, value in positive.items() if value is not None})
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    seed_everything(seed)
    weigh = (weigh or Sum()).to(device)
    model.to(device)
    groups = parameter_groups(
        model,
        weigh,
        learning_rate=learning_rate,
        pretrained_learning_rate=pretrained_learning_rate,
        weight_decay=weight_decay,
    )
    check_partition(groups, [model, weigh])
    optimizer = make_optimizer(groups)
    schedule = warmup_cosine(optimizer, steps=epochs * -(-batches // accumulate), warmup=warmup)
    numeric = Precision(precision, device)
    parts = {"model": model, "weigh": weigh, "optimizer": optimizer, "schedule": schedule, "scaler": numeric.scaler}
    best = Best(model, select, folder)
    settings = {
        "learning_rate": learning_rate,
        "pretrained_learning_rate": pretrained_learning_rate,
        "weight_decay": weight_decay,
        "select": select,
        "seed": seed,
        "trained": {group["name"]: len(group["params"]) for group in groups},
    }
    history, step = _start(folder, resume, parts, best, settings)
    for epoch in range(len(history.epochs) + 1, epochs + 1):
        if best.is_stale(epoch, patience):
            break
        if hasattr(train, "epoch"):
            train.epoch = epoch - 1  # the order of a Loader depends on it
        rate, began = _rate(optimizer), time.perf_counter()
        meter = Meter(train, f"epoch {epoch}/{epochs}", show=progress)
        for losses in train_epoch(
            model,
            meter,
            weigh=weigh,
            optimizer=optimizer,
            balance=balance,
            accumulate=accumulate,
            clip=clip,
            precision=numeric,
            schedule=schedule,
            first_step=step + 1,
        ):
            meter.add(losses)
            step += 1
        row = {"epoch": epoch, "learning_rate": rate, **meter.close()}
        if validation is not None:
            numbers = evaluate(model, validation).numbers
            row |= {f"validation/{name}": value for name, value in numbers.items()}
            best.look(epoch, numbers)
        row["seconds"] = time.perf_counter() - began
        history.epochs.append(row)
        history.best_epoch = best.epoch
        if folder is not None:
            best.save_if_new(epoch)
            progress_made = {"history": history.epochs, "best": best.state, "step": step, "settings": settings}
            save_checkpoint(Path(folder) / "last", parts, progress_made)
    best.restore()
    tell_dropped(train, stacklevel=3)
    return history


def _require_batches(train: Iterable[Batch], validation: Any, select: str, patience: int | None) -> int:
    """The number of batches in an epoch, or an error before anything is trained."""
    require_batches(train)
    if validation is not None:
        require_batches(validation)
    if not isinstance(train, Sized) or not len(train):
        raise ValueError(
            f"fit got a {type(train).__name__} {'without a batch' if isinstance(train, Sized) else 'without length'} "
            "to train on. Expected batches that can be counted and read once an epoch. Give a Loader, or a list."
        )
    if validation is None and (patience is not None or select != "loss"):
        raise ValueError(
            f"fit got {'patience' if patience is not None else 'select'} without validation batches. Expected both or "
            "neither. Give validation batches."
        )
    return len(train)


def _rate(optimizer: Optimizer) -> float:
    """The learning rate of the new parameters, or of all if none is new."""
    groups = optimizer.param_groups
    return next((group["lr"] for group in groups if group["name"].startswith("new")), groups[0]["lr"])


def _start(
    folder: str | Path | None, resume: bool, parts: dict[str, Any], best: Best, settings: dict[str, Any]
) -> tuple[History, int]:
    """An empty history, or that of the run in the folder with everything put back."""
    if folder is None:
        if resume:
            raise ValueError("fit got resume=True without a folder. Expected the folder of the run. Give folder=...")
        return History(), 0
    last = Path(folder) / "last"
    if not last.is_dir():
        return History(), 0
    if not resume:
        raise ValueError(
            f"fit found a run in {folder}. Expected an empty folder, so that nothing is lost. "
            "Pass resume=True to go on with that run, or choose another folder."
        )
    state = load_checkpoint(last, parts, settings)
    renew_rates(parts["optimizer"], parts["schedule"])
    best.epoch, best.score = state["best"]["epoch"], state["best"]["score"]
    return History(state["history"], best.epoch), int(state["step"])
