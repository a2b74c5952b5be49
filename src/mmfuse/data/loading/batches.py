"""Rows of a data set as whole batches, with the rows that cannot be read counted as the caller asked."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmfuse._checks import require_choice
from mmfuse.contracts import Batch, Input, Target
from mmfuse.data.errors import DataError
from mmfuse.data.loading.chosen import require_transforms
from mmfuse.data.loading.collate import Sample, collate, make_input, make_whole_input
from mmfuse.data.loading.finite import nonfinite_rows
from mmfuse.data.loading.passes import Pass
from mmfuse.data.loading.reading import Fail, Values
from mmfuse.data.loading.report import Problem, Read, ReadReport
from mmfuse.data.transforms import Transform
from mmfuse.data.transforms._made import require_like, require_tensor

Key = tuple[int, int] | int  # (epoch, row), or a row in epoch 0

_SHARES = {"raise": 1.0, "skip": 0.01, "absent": 0.5}  # of the rows may have a problem
_OTHERWISE = (  # the end of a message; what is wrong with the cell says how to mend it
    "Or pass on_error='skip' to leave out the row; it is counted.",
    "Or pass on_error='absent' to go on without it, or on_error='skip' to leave out the row; both are counted.",
)


class BatchDataset(Dataset):
    """Abstract: ``dataset.read(rows, epoch)`` is a batch with all that went wrong, ``dataset[row]`` one sample.

    :attr:`report` says what went wrong in the batches that were handed out.

    Args:
        rows: how many there are.
        transforms: for each modality, how it is padded and what stands in for it.
        tasks: what the labels mean.
        on_error: ``"raise"``, ``"absent"`` or ``"skip"``.
        max_errors: largest share of rows with a problem, at least one row; None: 1 % with ``"skip"``,
            half of them with ``"absent"``. 1.0 is no limit.
        check_finite: NaN and infinity are problems.
    """

    name = ""  # of the table, for messages
    ways: tuple[str, ...] = ("raise", "absent", "skip")  # what on_error may be

    def __init__(
        self,
        rows: int,
        transforms: Mapping[str, Transform],
        tasks: Mapping[str, nn.Module] | nn.ModuleDict,
        *,
        on_error: str,
        max_errors: float | None,
        check_finite: bool,
    ) -> None:
        owner = type(self).__name__
        require_choice(owner, "on_error", on_error, self.ways)
        if max_errors is not None and not 0 <= max_errors <= 1:
            raise ValueError(
                f"{owner} got max_errors={max_errors}. Expected a share of the rows from 0 to 1. Try max_errors=0.05, "
                "or 1.0 for no limit."
            )
        require_transforms(transforms)
        self.transforms = dict(transforms)
        self.tasks: Any = tasks
        self._blanks: dict[str, Tensor] = {name: task.blank() for name, task in tasks.items()}  # type: ignore[operator]
        self.on_error = on_error
        self.mark: Any = [0]  # the row that is being read; a worker puts shared memory here
        self._check_finite = check_finite
        share = _SHARES[on_error] if max_errors is None else max_errors
        most = None if share == 1 else max(1, int(share * rows))
        self.report = ReadReport(self, self.transforms, rows, skips=on_error == "skip", most=most)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def place(self, row: int, modality: str | None = None) -> str:
        """Where a row, or a cell of it, stands, for messages."""

    @abstractmethod
    def content(self, row: int, modality: str) -> str:
        """What stands in a cell, in a few letters, for messages."""

    @abstractmethod
    def _values(self, rows: Tensor, epoch: int, problems: "Problems") -> tuple[dict[str, Values], dict[str, Target]]:
        """The modalities and the labels of some rows."""

    @property
    def dropped(self) -> list[str]:
        """What could not be read so far: row, column and file of each."""
        return self.report.dropped

    def __getitem__(self, key: Key) -> Sample:
        """The sample of ``(epoch, row)``, or of a row in epoch 0; what cannot be read is absent or raises."""
        epoch, row = key if isinstance(key, tuple) else (0, key)
        row = range(len(self))[row]  # -1 is the last
        batch = self.accept(self.read(torch.tensor([row]), epoch))
        inputs = {name: part.values[0] if part.present[0] else None for name, part in batch.inputs.items()}
        return Sample(inputs, {n: part.values[0] if part.known[0] else None for n, part in batch.targets.items()})

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """The batch of some rows of one epoch. A DataLoader calls this; ``collate_fn`` then has nothing to do."""
        epochs = {key[0] if isinstance(key, tuple) else 0 for key in keys}
        if len(epochs) != 1:
            raise ValueError(f"{type(self).__name__} got rows of the epochs {sorted(epochs)}. Expected rows of one.")
        rows = torch.tensor([key[1] if isinstance(key, tuple) else key for key in keys])
        return self.accept(self.read(rows, epochs.pop()))

    def begin(self, now: Pass) -> None:
        """What is read from now on are batches of this pass, in their order."""

    def blank(self) -> Batch:
        """A batch of one row that has no modality and no known label, and counts for nothing."""
        return collate([Sample({}, {})], self.transforms, self._blanks)

    def read(self, rows: Tensor, epoch: int) -> Read:
        """A batch of some rows, and what went wrong.

        Raises:
            DataError: a row cannot be read, and ``on_error`` is ``"raise"``.
        """
        problems = Problems(self, rows.tolist())
        values, targets = self._values(rows, epoch, problems)
        inputs = {name: self._input(name, part, problems) for name, part in values.items()}
        if problems.found and self.on_error == "skip":
            kept = problems.kept()
            inputs = {name: _only(part, kept) for name, part in inputs.items()}
            targets = {name: Target(part.values, part.known & kept) for name, part in targets.items()}
        lost = {name: part.lost for name, part in values.items() if part.lost is not None}
        return Read(Batch(inputs, targets), problems.rows, problems.found, lost)

    def accept(self, read: Read) -> Batch:
        """The batch, once its problems have been counted. Called where batches arrive, not in a worker."""
        if read.problems or read.lost:
            self.report.add(read)
        if len(empty := _rows_without_any_modality(read)):
            self.report.add_empty(empty, read)
        return read.batch

    def _input(self, name: str, values: Values, problems: "Problems") -> Input:
        if isinstance(values.tensors, Input):
            return values.tensors
        transform = self.transforms[name]
        if isinstance(values.tensors, Tensor) and values.tensors.dtype == transform.blank().dtype:
            given = make_whole_input(values.tensors, transform)
        else:
            given = self._stacked(name, list(values.tensors), problems)
        bad = nonfinite_rows(given) if self._check_finite and not values.finite else {}
        for place, message in bad.items():
            problems.add(place, name, ValueError(message))
        return _only(given, problems.kept(bad)) if bad else given

    def _stacked(self, name: str, tensors: list[Tensor | None], problems: "Problems") -> Input:
        transform = self.transforms[name]
        blank = transform.blank()
        alike: list[Tensor | None] = []
        for place, tensor in enumerate(tensors):
            try:
                if tensor is not None:
                    require_like(require_tensor(tensor, of="The sample"), blank, sequence=transform.padding is not None)
                alike.append(tensor)
            except ValueError as error:
                problems.add(place, name, error)
                alike.append(None)
        return make_input(alike, transform)

    def __getstate__(self) -> dict[str, Any]:
        """A worker needs no task: its weights may be large, or on a GPU."""
        return {**vars(self), "tasks": {}}


class Problems:
    """What went wrong in one batch; with ``on_error="raise"`` the first is raised."""

    def __init__(self, dataset: BatchDataset, rows: list[int]) -> None:
        self.dataset = dataset
        self.rows = rows
        self.found: list[Problem] = []
        self.places: set[int] = set()

    def add(self, place: int, modality: str | None, error: Exception, where: str = "") -> None:
        """Raise, or remember that the row at this place of the batch has a problem in this modality, or as a whole."""
        row = self.rows[place]
        ours = isinstance(error, (ValueError, OSError, ImportError))
        said = str(error) if ours else f"{type(error).__name__}: {error}."  # the text of a KeyError is the bare key
        if self.dataset.on_error == "raise":
            stop = "" if said.endswith((".", "?", "!")) else "."
            raise DataError(
                f"{self.dataset.place(row, modality)}:{where} {said}{stop} {_OTHERWISE['absent' in self.dataset.ways]}"
            ) from error
        self.found.append(Problem(row, modality, said))
        self.places.add(place)

    def of(self, modality: str, where: Any = None) -> Fail:
        """``add`` for one modality; ``where(row)`` says what stands there."""
        return lambda place, error: self.add(place, modality, error, where(self.rows[place]) if where else "")

    def kept(self, places: Any = None) -> Tensor:
        """Which places of the batch have no problem."""
        kept = torch.ones(len(self.rows), dtype=torch.bool)
        kept[list(self.places if places is None else places)] = False
        return kept


def _rows_without_any_modality(read: Read) -> list[int]:
    present = [given.present for given in read.batch.inputs.values()]
    if any(bool(rows.all()) for rows in present):  # most often, and a third of the time
        return []
    some = torch.stack(present).any(dim=0)
    return [] if some.all() else [read.rows[place] for place in (~some).nonzero().flatten().tolist()]


def _only(given: Input, kept: Tensor) -> Input:
    """The same input, absent in every row that is not kept."""
    mask = None if given.mask is None else given.mask & kept[:, None]
    return replace(given, present=given.present & kept, mask=mask)
