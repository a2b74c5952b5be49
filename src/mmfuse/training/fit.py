"""``fit``: the plain loop with the defaults that a real run needs."""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmfuse.contracts import Batch
from mmfuse.data.loading.loader import tell_dropped
from mmfuse.distributed import agree, connect, is_main, rank, together
from mmfuse.evaluation.evaluate import evaluate
from mmfuse.losses import Sum
from mmfuse.model import MultimodalModel
from mmfuse.training.arguments import count_batches, device_of_run, require_settings, with_state
from mmfuse.training.best import Best
from mmfuse.training.compiling import compiled
from mmfuse.training.distributed import parallel
from mmfuse.training.ema import ExponentialMovingAverage
from mmfuse.training.halving import Halving
from mmfuse.training.history import History
from mmfuse.training.log import Log, Logs
from mmfuse.training.loop import Balance, train_epoch
from mmfuse.training.nonfinite import NonFinite
from mmfuse.training.objective import Objective
from mmfuse.training.optimizer import (
    check_partition,
    make_optimizer,
    parameter_groups,
    rate_of,
    renew_rates,
    warmup_cosine,
)
from mmfuse.training.precision import Precision, arithmetic
from mmfuse.training.progress import Progress
from mmfuse.training.run_folder import RunFolder
from mmfuse.training.seeds import seed_everything, seed_of
from mmfuse.training.signals import StopNow, StopSignals
from mmfuse.training.telling import tell_epoch, tell_start, tell_unreached
from mmfuse.training.unfreezing import Plan, Unfreezing


def fit(  # noqa: C901, PLR0913, PLR0915  all in the order in which it happens; flat keywords, as users expect
    model: MultimodalModel,
    train: Iterable[Batch],
    validation: Iterable[Batch] | None = None,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    pretrained_learning_rate: float | None = None,
    layer_decay: float = 1.0,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    weigh: nn.Module | None = None,
    balance: Sequence[Balance] = (),
    accumulate: int = 1,
    clip: float | None = 1.0,
    ema: float | None = None,
    unfreeze: Plan | None = None,
    precision: str = "auto",
    tf32: bool | None = None,
    deterministic: bool = False,
    compile: bool | Mapping[str, Any] = False,
    device: torch.device | str | None = None,
    strategy: str = "auto",
    folder: str | Path | None = None,
    resume: bool = False,
    save_every: int | None = None,
    keep: int = 2,
    select: str = "loss",
    patience: int | None = None,
    on_nonfinite: str = "raise",
    max_skips: int = 10,
    on_out_of_memory: str = "raise",
    log: Log | Sequence[Log] | None = None,
    log_every: int = 50,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train a model; with validation batches, leave it with the weights of its best epoch.

    Never give the test set as ``validation``: the epoch is chosen by it, so its numbers are too good.

    The same call trains on one process, or on each of those that ``torchrun`` started. With a ``folder``, a run that
    was stopped in any way goes on with ``resume=True``, bit for bit as if it had not been.

    Args:
        model: moved to ``device``.
        train: batches, with a length: a ``Loader``, or a list.
        validation: batches by which the best epoch is chosen.
        epochs: passes over ``train``.
        learning_rate: highest rate of new parameters (AdamW).
        pretrained_learning_rate: highest rate of pretrained encoders; a tenth of ``learning_rate`` if None.
        layer_decay: how much slower each layer of a pretrained encoder learns than the one above it.
        weight_decay: of matrices; biases, norms and other vectors are not decayed.
        warmup: share of the steps in which the rates rise; after that they fall to zero along a cosine.
        weigh: losses of the tasks -> one loss; their sum if None. Its parameters are trained too.
        balance: rules that edit the whole gradient of a step: ``rule(model, outputs, batches)``.
        accumulate: batches in one optimizer step.
        clip: largest norm of all gradients together; None: no limit.
        ema: decay of a moving average of the weights, such as 0.999, which is then what is validated and kept.
        unfreeze: from which epoch on an encoder is trained: ``{"text": 3}``; see :class:`Unfreezing`.
        precision: "auto", "float32", "bf16" or "fp16".
        tf32: whether products of float32 may be rounded to TF32 on a GPU; None: as torch is set.
        deterministic: only operations that give the same bits every time.
        compile: run the model through ``torch.compile``; a mapping gives its options.
        device: a GPU if there is one, if None.
        strategy: "ddp", "fsdp", or "auto", which is "ddp" where there are several processes.
        folder: where the run is kept: ``checkpoints``, ``best``, ``history.jsonl``, ``run.json``. None: the best is
            kept in memory.
        resume: go on from the newest whole checkpoint if there is one, with the rates, ``select`` and ``seed`` of then.
        save_every: optimizer steps between checkpoints; None: one after every epoch.
        keep: how many checkpoints are kept.
        select: number of the validation report by which the best epoch is chosen: "loss" or "task/metric".
        patience: stop after so many epochs without a better one.
        on_nonfinite: what a loss or gradient that is not finite does: "raise", or "skip" the step and warn.
        max_skips: most steps that are skipped.
        on_out_of_memory: what a step does that finds too little memory: "raise", or "halve": it is done again with its
            batches cut in halves, as often as needed, and so are those that follow: the same steps in smaller parts.
        log: ``log(step, values)``, or several: called every ``log_every`` steps and after every epoch.
        log_every: optimizer steps between losses that are logged.
        seed: of dropout and everything else that is random in training.
        progress: show a bar.

    Returns:
        The losses, metrics, rates and times of every epoch.

    Raises:
        NonFiniteError: a loss or gradient is not finite. No weight has been changed by it.
        Preempted: the process got SIGTERM or SIGINT; the state is saved after the step that was going on.
    """
    given = dict(locals())
    require_settings(given)
    connect()
    halving = Halving(on_out_of_memory)
    device = device_of_run(device)
    with ExitStack() as stack:
        stack.enter_context(together())
        stack.enter_context(arithmetic(device, tf32=tf32, deterministic=deterministic))
        signals = stack.enter_context(StopSignals())
        batches = count_batches(train, validation, select=select, patience=patience)
        seed_everything(seed if rank() == 0 else seed_of(seed, rank()))
        weigh = (Sum() if weigh is None else weigh).to(device)
        model.to(device)
        numeric = Precision(precision, device)
        alone = Objective(model, weigh, forward=compiled(model, compile), keep_output=bool(balance))
        objective = parallel(alone, strategy, numeric)
        groups = parameter_groups(
            model,
            weigh,
            learning_rate=learning_rate,
            pretrained_learning_rate=pretrained_learning_rate,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
        )
        check_partition(groups, [model, weigh])
        optimizer = make_optimizer(groups)
        schedule = warmup_cosine(optimizer, steps=epochs * -(-batches // accumulate), warmup=warmup)
        average = None if ema is None else ExponentialMovingAverage(model, ema)
        unfreezing = Unfreezing(model, unfreeze)
        stack.callback(unfreezing.undo)
        tell_unreached(unfreezing.unreached(epochs), epochs)
        nonfinite = NonFinite(on_nonfinite, max_skips)
        best = Best(model, select, folder)
        now = Progress(train, halving)
        stack.callback(now.clear)
        parts = {"model": model, "weigh": weigh, "optimizer": optimizer, "schedule": schedule, "scaler": numeric.scaler}
        parts |= {"average": average, "nonfinite": nonfinite, "best": best, "progress": now, **with_state(balance)}
        kept = stack.enter_context(RunFolder(folder, keep, parts, given, groups))
        restore = kept.load(resume)
        tell_start(folder, now, resume=resume, show=progress)
        renew_rates(optimizer, schedule)
        logs = stack.enter_context(closing(Logs(log if is_main() else None, kept.log)))
        logs.keep_until(now.step, now.epoch)
        for epoch in range(now.epoch, epochs + 1):
            if best.is_stale(epoch, patience):
                break
            if unfreezing.apply(epoch) and isinstance(objective, DistributedDataParallel):
                objective = parallel(alone, strategy, numeric)  # it knows only what was trained when it was made
            began = time.perf_counter()
            title = f"epoch {epoch}/{epochs}"
            meter = now.begin(title, rate=rate_of(optimizer), show=progress, restore=restore)
            restore = None
            for _ in train_epoch(
                model,
                meter,
                weigh=weigh,
                optimizer=optimizer,
                balance=balance,
                accumulate=accumulate,
                clip=clip,
                precision=numeric,
                schedule=schedule,
                objective=objective,
                nonfinite=nonfinite,
                halving=halving,
                signals=signals,
                first_step=now.step + 1,
            ):
                meter.add(nonfinite.losses, skipped=nonfinite.skips)
                now.advance(accumulate)
                if average is not None and nonfinite.moved:
                    average.update()
                if now.step % log_every == 0 and logs.logs:
                    logs(now.step, {"step/learning_rate": rate_of(optimizer), **meter.recent()})
                if signals.stop or (save_every and now.step % save_every == 0 and now.used < batches):
                    kept.save(now)
                if signals.stop:
                    raise kept.preempted(signals.stop, now)
            meter.look_back(list(model.tasks), expected=batches, labels=epoch == 1 and not nonfinite.skipped)
            row: dict[str, float] = {"epoch": epoch, "learning_rate": now.rate, **meter.close()}
            try:
                with nullcontext() if average is None else average.swapped():
                    if validation is not None:
                        with signals.at_once():
                            numbers = evaluate(model, validation).numbers
                        row |= {f"validation/{name}": value for name, value in numbers.items()}
                        best.look(epoch, numbers)
                        best.save_if_new(epoch)
            except StopNow:
                kept.save(now)
                raise kept.preempted(signals.stop, now) from None
            row["seconds"] = time.perf_counter() - began
            now.end(row)
            now.history.best_epoch = best.epoch
            logs(now.step, row if best.epoch is None else {**row, "best_epoch": best.epoch})
            tell_epoch(row, epochs, best=best.epoch == epoch, show=progress)
            kept.save(now)
            signals.hear(agree(signals.counts()))
            if signals.stop and epoch < epochs:
                raise kept.preempted(signals.stop, now)
        if best.epoch is None and average is not None:
            average.copy_to_model()
        best.restore()
    tell_dropped(train, stacklevel=3)
    return now.history
