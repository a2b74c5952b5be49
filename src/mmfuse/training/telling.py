"""What a run says on the screen beside its bar: a line when it goes on, and a line for each epoch."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmfuse.distributed import is_main
from mmfuse.training.bar import Bar
from mmfuse.training.history import MEASURED
from mmfuse.training.progress import Progress

MOST = 6  # numbers in a line


def tell_start(folder: str | Path | None, now: Progress, *, resume: bool, show: bool) -> None:
    """Say where a run goes on, or that there is none to go on with."""
    if not resume:
        return
    where = f"after step {now.step}, in epoch {now.epoch}" if now.step else "from the beginning: there is no checkpoint"
    _say(f"{folder}: goes on {where}", show)


def tell_unreached(names: Sequence[str], epochs: int) -> None:
    """Warn, in the name of who calls fit, of encoders that no epoch will train as planned."""
    if names and is_main():
        warnings.warn(
            f"fit got an unfreeze whose epochs for {list(names)} come after the last, epochs={epochs}: what waits for "
            "them stays frozen. Expected epochs that are reached. Choose earlier ones, or take more epochs.",
            stacklevel=3,
        )


def tell_epoch(row: Mapping[str, int | float], epochs: int, *, best: bool, show: bool) -> None:
    """Say what an epoch gave: its losses and the first metrics of the validation."""
    hidden = {*MEASURED, "epoch", "learning_rate"}
    numbers = {name: value for name, value in row.items() if name not in hidden}
    first = [name for name in ("train/loss", "validation/loss") if name in numbers]
    names = [*first, *(name for name in numbers if name.startswith("validation/") and not name.endswith("/loss"))]
    told = ", ".join(f"{name} {numbers[name]:.4g}" for name in names[:MOST])
    _say(f"epoch {row['epoch']}/{epochs}: {told}{', the best so far' if best else ''} ({row['seconds']:.1f} s)", show)


def _say(line: str, show: bool) -> None:
    if show and is_main():
        Bar.write(line, file=sys.stderr)
