"""How the benchmarks of data compare: samples a second of ours and of another way, in turn."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common import Row, Run, in_turn


@dataclass(frozen=True)
class Setting:
    """Where the files are made, and how long is measured."""

    folder: Path
    quick: bool
    rounds: int

    def place(self, name: str) -> Path:
        """A folder that is there."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def seconds(self) -> tuple[float, float]:
        """How long one comparison goes on at least, and at most."""
        return (0.0, 2.0) if self.quick else (2.0, 30.0)

    def target(self, number: float | None) -> float | None:
        """Times of the small sizes of ``--quick`` have no target."""
        return None if self.quick else number


Case = Callable[[Setting], list[Row]]


def faster(
    setting: Setting, ours: Run, others: Mapping[str, tuple[Run, float | None]], samples: int, note: str = ""
) -> list[Row]:
    """Rows of samples in a second of CPU time: ours, and each other's with how many times as fast ours is at least."""
    runs = [ours, *(run for run, _ in others.values())]
    (mine, *times), ratios = in_turn(runs, rounds=setting.rounds, seconds=setting.seconds)
    return [
        Row(
            name, _rate(samples, mine), _rate(samples, ms), 1 / ratio, setting.target(target), "/s", note, at_least=True
        )
        for (name, (_, target)), ms, ratio in zip(others.items(), times, ratios, strict=True)
    ]


def slower(
    setting: Setting, name: str, ours: Run, other: Run, target: float | None, *, unit: float = 1, note: str = ""
) -> Row:
    """A row of milliseconds: the time of ours is to be at most ``target`` of the other's. ``unit``: runs in one run."""
    (mine, others), (ratio,) = in_turn([ours, other], rounds=setting.rounds, seconds=setting.seconds)
    return Row(name, mine / unit, others / unit, ratio, setting.target(target), note=note)


def _rate(samples: int, ms: float) -> float:
    return 1e3 * samples / ms


@contextmanager
def hidden(module: Any, finder: str) -> Iterator[None]:
    """As if what a function of a module looks for were not installed."""
    found = getattr(module, finder)
    setattr(module, finder, lambda: None)
    try:
        yield
    finally:
        setattr(module, finder, found)


def model_of(encoders: Mapping[str, Any], tasks: Mapping[str, Any]) -> Any:
    """What a loader asks of a model, without a fusion."""
    return SimpleNamespace(encoders=dict(encoders), tasks=dict(tasks))


def handing_out(transform: Any) -> Any:
    """What a loader asks of an encoder."""
    return SimpleNamespace(transform=lambda train: transform)  # noqa: ARG005
