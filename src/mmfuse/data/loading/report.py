"""What could not be read and what was cut off, row by row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mmfuse.contracts import Batch
from mmfuse.data.errors import DataError

KEPT_REASONS = 100


@runtime_checkable
class Places(Protocol):
    """Names the rows of a data set in messages."""

    name: str

    def place(self, row: int, modality: str | None = None) -> str:
        """Where a row, or a cell of it, stands."""
        ...

    def content(self, row: int, modality: str) -> str:
        """What stands there, in a few letters."""
        ...


@dataclass(frozen=True)
class Problem:
    """A cell that could not be used."""

    row: int
    modality: str | None  # None: the whole row
    reason: str


@dataclass(frozen=True)
class Read:
    """A batch, and what went wrong while it was read: what a worker sends."""

    batch: Batch
    rows: Sequence[int]
    problems: Sequence[Problem] = ()
    lost: Mapping[str, Sequence[int]] = field(default_factory=dict)  # steps cut off of each row, where any were

    def pin_memory(self) -> "Read":
        """The same batch in page-locked memory. The DataLoader calls this."""
        return replace(self, batch=self.batch.pin_memory())


@dataclass(frozen=True)
class Truncated:
    """How much of a modality was cut off."""

    samples: int
    steps: int


class ReadReport:
    """Which rows could not be read, and what was cut off, in the batches that a loader has handed out so far.

    A row counts once, in however many epochs it comes. Reasons are kept for the first hundred problems. It takes a
    byte a row and modality if anything went wrong, and four more if anything was cut off.

    Each of several processes has a report of what it read itself. To count over all, and over the run before a
    restart, give each the ``state_dict()`` of the others: ``report.merge(state)``.

    Args:
        places: names the rows.
        modalities: what a row has.
        rows: how many rows there are.
        skips: a row with a problem counts for nothing at all, not only its modality.
        most: stop above so many rows with a problem; None: never.
    """

    def __init__(
        self, places: Places, modalities: Iterable[str], rows: int, *, skips: bool = False, most: int | None = None
    ) -> None:
        self.places = places
        self.modalities: list[str | None] = [*modalities, None]  # the last: the row as a whole
        self.skips = skips
        self.most = most
        self.problems: list[Problem] = []  # the first hundred
        self._size = rows
        self._bad: Tensor | None = None  # (row, modality)
        self._lost: dict[str, Tensor] = {}  # steps cut off of each row
        self._count = 0
        self._empty: Tensor | None = None  # rows without any modality
        self._told: tuple[int, int, int] = (0, 0, 0)

    def add(self, read: Read) -> None:
        """Count what went wrong in a batch.

        Raises:
            DataError: more rows than ``most`` had a problem by now.
        """
        for problem in read.problems:
            self._add_problem(problem)
        for modality, steps in read.lost.items():
            self._add_lost(modality, read.rows, steps)
        self._require_few()

    def state_dict(self) -> dict[str, Any]:
        """All that is in the report, as plain JSON."""
        lost = {name: (steps.nonzero().flatten(), steps) for name, steps in self._lost.items()}
        return {
            "reasons": [[problem.row, problem.modality, problem.reason] for problem in self.problems],
            "bad": [] if self._bad is None else self._bad.nonzero().tolist(),
            "lost": {name: [rows.tolist(), steps[rows].tolist()] for name, (rows, steps) in lost.items()},
            "empty": self.without_any_modality,
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Count what is in the report of another process on the same rows, or in that of an earlier run, too.

        Raises:
            DataError: more rows than ``most`` had a problem by now, over both.
        """
        for row, modality, reason in state["reasons"]:
            self._add_problem(Problem(row, modality, reason))
        for row, column in state["bad"]:  # those without a reason: a hundred have one by now
            self._add_problem(Problem(row, self.modalities[column], ""))
        for modality, (rows, steps) in state["lost"].items():
            self._add_lost(modality, rows, steps)
        self._add_empty(state["empty"])
        self._require_few()

    def add_empty(self, rows: Sequence[int], read: Read) -> None:
        """Count rows without any modality; one that is skipped is counted as that already."""
        skipped = {problem.row for problem in read.problems} if self.skips else set()
        self._add_empty([row for row in rows if row not in skipped])

    def require_any_modality(self) -> None:
        """Raise DataError if not one row had any modality."""
        if self._empty is not None and self._empty.all():
            raise DataError(
                f"{self.places.name}: no row has any modality. Expected some to train on. Do the columns, or the "
                "inputs of the samples, have the names of the modalities?"
            )

    @property
    def without_any_modality(self) -> list[int]:
        """The rows without any modality, in their order."""
        return [] if self._empty is None else self._empty.nonzero().flatten().tolist()

    @property
    def rows(self) -> list[int]:
        """The rows with a problem, in their order."""
        return [] if self._bad is None else self._bad.any(dim=1).nonzero().flatten().tolist()

    @property
    def dropped(self) -> list[str]:
        """Place and content of each cell that could not be read."""
        cells = [] if self._bad is None else self._bad.nonzero().tolist()
        return [self._cell(row, self.modalities[column]) for row, column in cells]

    @property
    def truncated(self) -> dict[str, Truncated]:
        """How many samples of each modality lost steps (ids, frames, audio samples), and how many steps in all."""
        return {name: Truncated(int((lost > 0).sum()), int(lost.sum())) for name, lost in self._lost.items()}

    def news(self) -> str:
        """One line on what is in the report, or nothing if nothing is that was not told before."""
        empty = self.without_any_modality
        now = (self._count, sum(part.samples for part in self.truncated.values()), len(empty))
        if now == self._told:
            return ""
        self._told = now
        return " ".join(filter(None, [self._tell_dropped(), self._tell_empty(empty), self._tell_truncated()]))

    def __repr__(self) -> str:
        return f"<ReadReport: {self._count} of {self._size} rows with a problem>"

    def __str__(self) -> str:
        """Every problem with its reason, a line each."""
        lines = [f"{self._describe(problem)}" for problem in self.problems]
        more = len(self.dropped) - len(lines)
        return "\n".join(filter(None, [*lines, f"and {more} more" if more else "", self._tell_truncated()]))

    def _require_few(self) -> None:
        if self.most is not None and self._count > self.most:
            raise DataError(
                f"{self.places.name}: {self._count} of {self._size} rows could not be read, more than max_errors allows"
                f" ({self.most}). The first: {self._describe(self.problems[0])}. Expected fewer. Mend the files, or "
                "give max_errors=1.0 to go on whatever their share."
            )

    def _add_lost(self, modality: str, rows: Sequence[int], steps: Sequence[int]) -> None:
        lost = self._lost.setdefault(modality, torch.zeros(self._size, dtype=torch.int32))
        index = torch.as_tensor(rows, dtype=torch.int64)
        lost[index] = torch.maximum(lost[index], torch.as_tensor(steps, dtype=torch.int32))

    def _add_empty(self, rows: Sequence[int]) -> None:
        if self._empty is None:
            self._empty = torch.zeros(self._size, dtype=torch.bool)
        self._empty[torch.as_tensor(rows, dtype=torch.int64)] = True

    def _add_problem(self, problem: Problem) -> None:
        if self._bad is None:
            self._bad = torch.zeros(self._size, len(self.modalities), dtype=torch.bool)
        marks = self._bad[problem.row]
        column = self.modalities.index(problem.modality)
        self._count += not bool(marks.any())
        if not marks[column] and len(self.problems) < KEPT_REASONS:
            self.problems.append(problem)
        marks[column] = True

    def _cell(self, row: int, modality: str | None) -> str:
        content = "" if modality is None else self.places.content(row, modality)
        return f"{self.places.place(row, modality)} {content}".rstrip()

    def _describe(self, problem: Problem) -> str:
        return f"{self._cell(problem.row, problem.modality)}: {problem.reason}"

    def _tell_dropped(self) -> str:
        dropped = self.dropped
        if not dropped:
            return ""
        if self.skips:
            what = f"{self._count} rows could not be read and counted for nothing"
        else:
            what = f"{len(dropped)} cells could not be read and counted as absent"
        more = f" and {len(dropped) - 5} more" if len(dropped) > 5 else ""
        return f"{what}: {'; '.join(dropped[:5])}{more}."

    def _tell_empty(self, rows: Sequence[int]) -> str:
        if not rows:
            return ""
        first = shown(list(map(self.places.place, rows[:5])), len(rows))
        return (
            f"{len(rows)} of {self._size} rows have no modality at all: they teach nothing but the frequency of the "
            f"labels, and answers to them rest on nothing else: {first}."
        )

    def _tell_truncated(self) -> str:
        return " ".join(
            f"{part.samples} values of {name!r} were too long and lost {part.steps} steps at their end: raise the "
            "limit of the transform, or shorten them."
            for name, part in self.truncated.items()
        )


def shown(items: Sequence[Any], total: int) -> str:
    """The first five things, and how many more there are."""
    more = f" and {total - 5} more" if total > 5 else ""
    return f"{', '.join(map(str, items[:5]))}{more}"
