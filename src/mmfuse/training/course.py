"""What decides the course of a run, beside what its checkpoints hold: another value on resuming is told."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfuse.distributed import is_main, world
from mmfuse.training.run_record import describe

# Arguments of fit. Not strategy, device, compile and the like, which change no more than the rounding.
DECIDE = ("epochs", "accumulate", "warmup", "clip", "weigh", "balance", "unfreeze", "precision", "patience")
PER_PROCESS = ("batch_size", "max_tokens")  # of a loader


def course_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``fit`` that decide what its steps do, as JSON; what a batch holds, over all processes."""
    course = {name: describe(arguments[name]) for name in DECIDE}
    for name in ("train", "validation"):
        for part, value in _batches(arguments[name]).items():
            course[f"{part} of {name}"] = value * world() if part in PER_PROCESS and value else value
    return course


def tell_other_course(folder: str | Path, then: Mapping[str, Any], now: Mapping[str, Any], stacklevel: int) -> None:
    """Warn if a run goes on in another way than it came; a checkpoint from before this was kept says nothing."""
    names = [name for name in now if name in then and then[name] != now[name]]
    if names and is_main():
        other = ", ".join(f"{name}={_short(now[name])} instead of {_short(then[name])}" for name in names)
        warnings.warn(
            f"fit goes on with the run in {folder} with other arguments than before: {other}. So it is no longer as if "
            "it had never been stopped. Expected the same. Pass those of before, unless this is meant.",
            stacklevel=stacklevel,
        )


def _batches(batches: Any) -> dict[str, Any]:
    """How they are made, or how many they are where only that is known."""
    if batches is None:
        return {"batches": 0}
    settings = getattr(batches, "settings", None)  # a Loader
    return dict(settings) if isinstance(settings, Mapping) else {"batches": len(batches)}


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("class", value.get("function", value)))
    return f"[{', '.join(map(_short, value))}]" if isinstance(value, list) else repr(value)
