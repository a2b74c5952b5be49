"""What ``fit`` is given, looked at before anything is changed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmfuse._checks import (
    require_choice,
    require_kind,
    require_numbers,
    require_positive,
    require_switches,
    require_whole,
    short,
    usable_device,
)
from mmfuse.contracts import Batch
from mmfuse.evaluation.collect import require_batches
from mmfuse.model import MultimodalModel
from mmfuse.training.distributed import STRATEGIES, require_own_batches
from mmfuse.training.halving import POLICIES, Halving
from mmfuse.training.nonfinite import NonFinite
from mmfuse.training.precision import PRECISIONS, Precision
from mmfuse.training.signals import StopSignals

WHOLE = ("epochs", "accumulate", "patience", "save_every", "keep", "log_every", "max_skips", "seed")
NUMBERS = ("learning_rate", "pretrained_learning_rate", "layer_decay", "weight_decay", "warmup", "clip", "ema")
POSITIVE = ("epochs", "accumulate", "learning_rate", "clip", "patience", "save_every", "keep", "log_every")
RANGES: Mapping[str, tuple[Callable[[float], bool], str, str]] = {
    "ema": (lambda x: 0 <= x < 1, "from 0 to below 1", "ema=0.999, or leave it out for no average"),
    "warmup": (lambda x: 0 <= x < 1, "from 0 to below 1: a share of the steps", "warmup=0.1"),
    "layer_decay": (lambda x: 0 < x <= 1, "above 0, up to 1", "layer_decay=0.9"),
    "pretrained_learning_rate": (lambda x: x >= 0, "from 0 up", "pretrained_learning_rate=1e-5"),
    "weight_decay": (lambda x: x >= 0, "from 0 up", "weight_decay=0.01"),
    "seed": (lambda x: -(2**63) <= x < 2**63, "of 64 bits", "seed=0"),
    "max_skips": (lambda x: x >= 0, "from 0 up", "max_skips=10"),
}
CHOICES = {
    "precision": PRECISIONS,
    "strategy": STRATEGIES,
    "on_nonfinite": ("raise", "skip"),
    "on_out_of_memory": POLICIES,
}
UNUSED = {"save_every": None, "keep": 2, "log_every": 50, "max_skips": 10, "resume": False}  # their values in fit
SWITCHES = ("deterministic", "resume", "progress", "tf32")
MAY_BE_NONE = ("pretrained_learning_rate", "clip", "ema", "save_every", "patience", "tf32")
PARTS: Mapping[str, tuple[type, bool]] = {  # of train_epoch: kind, and whether it may be None
    "model": (MultimodalModel, False),
    "weigh": (nn.Module, False),
    "optimizer": (Optimizer, False),
    "balance": (Sequence, False),
    "precision": (Precision, True),
    "schedule": (LRScheduler, True),
    "objective": (nn.Module, True),
    "nonfinite": (NonFinite, True),
    "halving": (Halving, True),
    "signals": (StopSignals, True),
}
KINDS: Mapping[str, tuple[type | tuple[type, ...], str, str]] = {
    "model": (MultimodalModel, "a MultimodalModel", "MultimodalModel(encoders, fusion, tasks)"),
    "weigh": (nn.Module, "a module: losses by task -> one loss", "weigh=UncertaintyWeighting(model.tasks)"),
    "balance": (Sequence, "a list of functions", "balance=[rule]"),
    "unfreeze": (Mapping, "the epoch from which each modality's encoder is trained", "unfreeze={'text': 3}"),
    "select": (str, "the name of a number of the validation", "select='loss'"),
    "compile": (
        (bool, Mapping),
        "True, False, or options of torch.compile by name",
        "compile={'mode': 'max-autotune'}",
    ),
    "folder": ((str, PathLike), "a path", "folder='run'"),
}


def require_settings(given: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for an argument of ``fit`` that can be none, not of this kind, or without use."""
    _require_kinds(given)
    _require_numbers(given)
    for name, choices in CHOICES.items():
        require_choice("fit", name, given[name], choices)
    if given["folder"] is not None and Path(given["folder"]).exists() and not Path(given["folder"]).is_dir():
        raise ValueError(
            f"fit got folder={str(given['folder'])!r}, which is a file. Expected a folder. Choose another."
        )
    _require_used(given)


def _require_kinds(given: Mapping[str, Any]) -> None:
    for name, (kind, expected, example) in KINDS.items():
        optional = name in ("weigh", "unfreeze", "folder")
        if given[name] is not None or not optional:
            require_kind("fit", name, given[name], kind, f"{expected}. Write {example} for example")
    _require_rules("fit", given["balance"])


def _require_rules(owner: str, balance: Sequence[Any]) -> None:
    if odd := [rule for rule in balance if not callable(rule)]:
        raise TypeError(
            f"{owner} got {short(odd[0])} in balance. Expected functions of model, outputs and batches. Write "
            "balance=[rule]."
        )


def _require_numbers(given: Mapping[str, Any]) -> None:
    def take(names: Iterable[str]) -> dict[str, Any]:
        return {name: given[name] for name in names if given[name] is not None or name not in MAY_BE_NONE}

    require_whole("fit", **take(WHOLE))
    require_switches("fit", **take(SWITCHES))
    if isinstance(given["ema"], bool):
        raise TypeError(f"fit got ema={given['ema']}. Expected the decay of the average. Write {RANGES['ema'][2]}.")
    require_numbers("fit", **take(NUMBERS))
    require_positive("fit", **take(POSITIVE))
    for name, (fits, expected, example) in RANGES.items():
        if given[name] is not None and not fits(given[name]):
            raise ValueError(f"fit got {name}={given[name]}. Expected a number {expected}. Write {example}.")


def _require_used(given: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that would do nothing without another one."""
    kept, logged = given["folder"] is not None, given["folder"] is not None or given["log"] is not None
    checkpoints = (kept, "without a folder: no checkpoint would be kept", "folder='run'")
    needed = {
        **dict.fromkeys(("save_every", "keep", "resume"), checkpoints),
        "log_every": (logged, "without log or folder: nothing would be logged", "log=TensorBoard('run')"),
        "max_skips": (given["on_nonfinite"] == "skip", "although no step is skipped", "on_nonfinite='skip'"),
    }
    for name, (used, why, mend) in needed.items():
        if not used and given[name] != UNUSED[name]:
            raise ValueError(
                f"fit got {name}={given[name]!r} {why}. Expected what it needs. Give {mend}, or leave {name} out."
            )


def require_parts(batches: Any, parts: Mapping[str, Any]) -> None:
    """Raise TypeError for an argument of ``train_epoch`` that is not of its kind."""
    require_batches(batches)
    for name, (kind, optional) in PARTS.items():
        if parts[name] is not None or not optional:
            require_kind("train_epoch", name, parts[name], kind, f"one of {kind.__name__}. fit makes it by itself")
    _require_rules("train_epoch", parts["balance"])


def device_of_run(given: torch.device | str | None) -> torch.device:
    """The device of a run: a GPU if there is one, if None. Call it when this process has its GPU."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if given is None else given
    mend = "Expected 'cuda', 'cuda:1' or 'cpu'. Leave it out, and a GPU is taken if there is one."
    return usable_device("fit", chosen, mend)


def count_batches(train: Iterable[Batch], validation: Any, *, select: str, patience: int | None) -> int:
    """The number of batches in an epoch, or an error before anything is trained."""
    require_batches(train)
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
    if validation is not None:
        require_batches(validation)
        if isinstance(validation, Iterator) or (isinstance(validation, Sized) and not len(validation)):
            what = "that can be read once only" if isinstance(validation, Iterator) else "without a batch"
            raise ValueError(
                f"fit got a {type(validation).__name__} {what} as validation. Expected batches that are read after "
                "every epoch. Give a Loader, or a list."
            )
    require_own_batches(train)
    return len(train)


def with_state(balance: Sequence[Any]) -> dict[str, Any]:
    """The rules that keep something from step to step, by number."""
    return {f"balance{i}": rule for i, rule in enumerate(balance) if hasattr(rule, "state_dict")}
