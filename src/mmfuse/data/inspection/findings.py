"""What an inspection found out: what is wrong, what would fit, and how numbers are spread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

KEPT = 20  # lines and details of a finding
BINS = 20  # of a histogram
QUANTILES = {"min": 0.0, "1%": 0.01, "25%": 0.25, "50%": 0.5, "75%": 0.75, "99%": 0.99, "max": 1.0}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong (``serious``), or that should be looked at."""

    kind: str
    table: str
    text: str  # what is wrong, what was expected, how to mend it
    column: str = ""  # or modality, or task
    lines: Sequence[int] = ()  # of the first rows in their file
    count: int = 1  # of rows
    details: Sequence[str] = ()  # one for each line, where each has a reason of its own
    serious: bool = True

    def __str__(self) -> str:
        where = f"{self.table}, {self.column}" if self.column else self.table
        return visible(f"{where}: {self.text}{self._places()}")

    def _places(self) -> str:
        if not self.lines:
            return ""
        if self.details:
            shown = [f"line {line} {detail}" for line, detail in zip(self.lines[:3], self.details[:3], strict=True)]
        else:
            shown = [", ".join(map(str, self.lines[:5]))]
        more = self.count - (3 if self.details else 5)
        rest = f" and {more} more" if more > 0 else ""
        return f" {'; '.join(shown)}{rest}" if self.details else f" Line{'s' * (self.count > 1)} {shown[0]}{rest}."


@dataclass(frozen=True)
class Suggestion:
    """A setting that fits the data."""

    column: str
    setting: str
    value: Any  # of Python, for the keyword; None: it is advice
    reason: str

    def __str__(self) -> str:
        value = "" if self.value is None else f"={self.value}"
        return f"{self.column}: {self.setting}{value} ({self.reason})"


@dataclass(frozen=True)
class Spread:
    """How some numbers are spread."""

    count: int
    mean: float
    quantiles: Mapping[str, float]
    edges: Sequence[float]  # of the histogram
    bars: Sequence[int]

    def __str__(self) -> str:
        low, middle, high, most = (_short(self.quantiles[name]) for name in ("min", "50%", "99%", "max"))
        return low if low == most else f"{low} to {most}, median {middle}, 99 % up to {high}"


def spread_of(numbers: Any) -> Spread | None:
    """The spread of finite numbers; None if there are none."""
    values = np.asarray(numbers, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    power = int(np.frexp(np.abs(values).max())[1])
    small = np.ldexp(values, -power)  # below 1, exactly: sums and differences of the largest numbers would overflow
    bars, edges = np.histogram(small, bins=BINS if small.max() > small.min() else 1)
    quantiles = np.ldexp(np.quantile(small, list(QUANTILES.values())), power).tolist()
    mean = float(np.ldexp(small.mean(), power))
    return Spread(
        len(values), mean, dict(zip(QUANTILES, quantiles, strict=True)), np.ldexp(edges, power).tolist(), bars.tolist()
    )


@dataclass(frozen=True)
class Survey:
    """One modality of one table."""

    name: str
    kind: str
    present: int  # rows that have it
    looked: int  # rows whose values were opened
    compared: int  # rows whose files were looked for, and whose contents were compared
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # of words, such as the mode of images
    previews: Sequence[Mapping[str, Any]] = ()  # pictures for the HTML page


@dataclass(frozen=True)
class LabelSurvey:
    """The labels of one task in one table."""

    name: str
    kind: str
    known: int
    unknown: int
    classes: Mapping[str, int] = field(default_factory=dict)  # rows of each class, the most frequent first
    spread: Spread | None = None


@dataclass(frozen=True)
class TableSurvey:
    """One table: which modalities occur together, and what is in each."""

    name: str
    rows: int
    patterns: Mapping[tuple[str, ...], int]  # the modalities that a row has -> rows, the most frequent first
    labels: Sequence[LabelSurvey]
    modalities: Sequence[Survey]


@dataclass(frozen=True)
class Shared:
    """How much of one table is in another."""

    table: str  # whose rows are counted
    other: str
    whole: int  # rows that are there in every modality
    partly: Mapping[str, int]  # rows that are there in this modality


def visible(text: str) -> str:
    """Without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _short(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 1000 or number == int(number) else f"{number:.3g}"
