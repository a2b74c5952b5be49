"""What ``fit`` is given, looked at before anything is changed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmfuse._checks import require_numbers, require_positive, require_switches, require_whole
from mmfuse.contracts import Batch
from mmfuse.evaluation.collect import require_batches
from mmfuse.model import MultimodalModel
from mmfuse.training.distributed import require_own_batches

WHOLE = ("epochs", "accumulate", "patience", "save_every", "keep", "log_every", "max_skips", "seed")
NUMBERS = ("learning_rate", "pretrained_learning_rate", "layer_decay", "weight_decay", "warmup", "clip", "ema")
POSITIVE = ("epochs", "accumulate", "clip", "patience", "save_every", "keep", "log_every")
SWITCHES = ("deterministic", "resume", "progress", "tf32")
MAY_BE_NONE = ("pretrained_learning_rate", "clip", "ema", "save_every", "patience", "tf32")
KINDS: Mapping[str, tuple[type | tuple[type, ...], str, str]] = {
    "model": (MultimodalModel, "a MultimodalModel", "MultimodalModel(encoders, fusion, tasks)"),
    "weigh": (nn.Module, "a module: losses by task -> one loss", "weigh=UncertaintyWeighting(model.tasks)"),
    "balance": (Sequence, "a list of functions", "balance=[rule]"),
    "unfreeze": (Mapping, "the epoch from which each modality's encoder is trained", "unfreeze={'text': 3}"),
    "select": (str, "the name of a number of the validation", "select='loss'"),
    "folder": ((str, PathLike), "a path", "folder='run'"),
}


def require_settings(given: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for an argument of ``fit`` that can be none, or not of this kind."""

    def take(names: Iterable[str]) -> dict[str, Any]:
        return {name: given[name] for name in names if given[name] is not None or name not in MAY_BE_NONE}

    for name, (kind, expected, example) in KINDS.items():
        optional = name in ("weigh", "unfreeze", "folder")
        if not isinstance(given[name], kind) and not (optional and given[name] is None):
            raise TypeError(f"fit got {name}={_short(given[name])}. Expected {expected}. Write {example} for example.")
    if odd := [rule for rule in given["balance"] if not callable(rule)]:
        raise TypeError(
            f"fit got {_short(odd[0])} in balance. Expected functions of model, output and batch. Write balance=[rule]."
        )
    require_whole("fit", **take(WHOLE))
    require_numbers("fit", **take(NUMBERS))
    require_positive("fit", **take(POSITIVE))
    require_switches("fit", **take(SWITCHES))
    if given["folder"] is not None and Path(given["folder"]).exists() and not Path(given["folder"]).is_dir():
        raise ValueError(
            f"fit got folder={str(given['folder'])!r}, which is a file. Expected a folder. Choose another."
        )


def usable_device(given: torch.device | str | None) -> torch.device:
    """The device of a run: a GPU if there is one, if None. Call it when this process has its GPU."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if given is None else given)
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:  # the last: torch was built without CUDA
        reason = str(error).split("\n")[0][:120].rstrip(".:")
        raise ValueError(
            f"fit got device={given!r}, which cannot be used: {reason}. Expected 'cuda', 'cuda:1' or 'cpu'. Leave it "
            "out, and a GPU is taken if there is one."
        ) from error
    return device


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


def _short(value: Any) -> str:
    """How a value is shown in a message: a module or a tensor by its class."""
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"
