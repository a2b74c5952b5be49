"""What ``fit`` is given, looked at before anything is trained."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

from mmfuse._checks import require_positive
from mmfuse.contracts import Batch
from mmfuse.evaluation.collect import require_batches
from mmfuse.training.distributed import require_own_batches

POSITIVE = ("epochs", "accumulate", "clip", "patience", "save_every", "keep", "log_every")


def require_settings(given: Mapping[str, Any]) -> None:
    """Raise ValueError for a number that can be none."""
    require_positive("fit", **{name: given[name] for name in POSITIVE if given[name] is not None})


def count_batches(train: Iterable[Batch], validation: Any, *, select: str, patience: int | None) -> int:
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
    require_own_batches(train)
    return len(train)


def with_state(balance: Sequence[Any]) -> dict[str, Any]:
    """The rules that keep something from step to step, by number."""
    return {f"balance{i}": rule for i, rule in enumerate(balance) if hasattr(rule, "state_dict")}
