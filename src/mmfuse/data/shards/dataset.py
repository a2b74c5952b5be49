"""Samples of shards as batches, with the errors, absence and labels of a table."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from torch import Tensor, nn
from torch.utils.data import get_worker_info

from mmfuse.contracts import Batch, Target
from mmfuse.data.errors import DataError
from mmfuse.data.loading.batches import BatchDataset, Problems
from mmfuse.data.loading.collate import make_target
from mmfuse.data.loading.passes import Pass
from mmfuse.data.loading.reading import CellReader, Values
from mmfuse.data.loading.report import Read
from mmfuse.data.shards.cells import Encoded, first_member
from mmfuse.data.shards.held import Held, as_table
from mmfuse.data.shards.index import Shard
from mmfuse.data.shards.order import Order
from mmfuse.data.shards.stream import Stream
from mmfuse.data.transforms import Transform


@dataclass(frozen=True)
class ShardRead(Read):
    """A batch with its labels as they stand in the shards: a worker knows no task."""

    labels: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    keys: Sequence[str] = ()
    named: Sequence[Mapping[str, Any]] = ()  # what names each sample in the answers of predict; none in training


class ShardDataset(BatchDataset):
    """Batches of shards. Those of one window of the order are read in one pass, and wait as they were in the shard.

    A row is the number of a sample among all samples of all shards, and all randomness in a cell is a function of
    ``(seed, epoch, row, modality)``. Any order of asking is right; the one of ``order`` reads every byte once.

    Args:
        shards: what is read.
        names: under which names the members of each column stand.
        order: which batches there are, so that those of one worker can be read together.
        transforms: how each modality's cell becomes a tensor.
        tasks: what encodes each label.
        max_bytes: a larger member cannot be read.
        errors: ``on_error``, ``max_errors`` and ``check_finite`` of any dataset.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        names: Mapping[str, tuple[str, ...]],
        order: Order,
        transforms: Mapping[str, Transform],
        tasks: Mapping[str, nn.Module] | nn.ModuleDict,
        *,
        max_bytes: int,
        errors: Mapping[str, Any],
    ) -> None:
        self.name = f"{len(shards)} shard{'s' * (len(shards) > 1)} in {shards[0].path.parent.name or '.'}"
        super().__init__(order.total, transforms, tasks, **errors)
        self.order = order
        self.most_held = 0  # samples that have been in memory at once
        self.named: list[Mapping[str, Any]] | None = None  # what is handed out, where predict asks for it
        self._shards = shards
        self._names = names
        self._sums = list(accumulate(order.counts))
        self._stream = Stream(shards, names, max_bytes)
        self._now = Held()
        files = [column for name, t in transforms.items() if t.takes_path for column in columns_of(name, t)]
        self._plain = [column for column in names if column not in files]
        self._table = as_table(self.name, self._now, names, files, len(self))
        self.readers = {n: CellReader(self._table, n, t, cache=False, seed=order.seed) for n, t in transforms.items()}
        self._held: dict[int, Encoded] = {}
        self._pass, self._run = Pass(0), order.run(Pass(0))

    def __len__(self) -> int:
        return self._sums[-1]

    def begin(self, now: Pass) -> None:
        """What is read from now on are batches of this pass: those of one window are read together."""
        if now != self._pass:
            self._pass, self._run = now, self.order.run(now)

    def place(self, row: int, modality: str | None = None) -> str:
        """Shard and key of a sample; its number, where the key has not been read."""
        shard, number = self._locate(row)
        sample = self._now.samples.get(row)
        which = f"sample {number}" if sample is None else f"key {sample.key!r}"
        return f"The shard {self._shards[shard].path.name}, {which}" + ("" if modality is None else f", {modality!r}")

    def content(self, row: int, modality: str) -> str:  # noqa: ARG002  only a worker has seen it
        """Nothing."""
        return ""

    def read(self, rows: Tensor, epoch: int) -> ShardRead:
        """A batch, and the labels of its samples."""
        numbers = rows.tolist()
        self.mark[0] = numbers[0]
        if self._pass.epoch != epoch:
            self.begin(Pass(epoch))
        self._now.replace(self._fetch(numbers))
        read = super().read(rows, epoch)
        labels = {name: self._table.cells(rows, name) for name in self._blanks}
        samples = [self._now.samples[row] for row in numbers]
        named = [] if self.order.shuffle else [self._named(sample) for sample in samples]
        self._now.replace({})
        keys = [sample.key for sample in samples]
        return ShardRead(read.batch, read.rows, read.problems, read.lost, labels, keys, named)

    def accept(self, read: Read) -> Batch:
        """The batch with its labels encoded, once its problems have been counted."""
        assert isinstance(read, ShardRead)
        batch = super().accept(read)
        if self.named is not None:
            self.named += read.named
        skipped = {problem.row for problem in read.problems} if self.on_error == "skip" else set()
        keys = [None if row in skipped else key for row, key in zip(read.rows, read.keys, strict=True)]
        return replace(batch, targets={name: self._target(name, read, keys) for name in self._blanks})

    def _values(self, rows: Tensor, epoch: int, problems: Problems) -> tuple[dict[str, Values], dict[str, Target]]:
        values = {name: self._modality(name, rows, epoch, problems) for name in self.readers}
        for name in self._blanks:
            self._require_labels(name, rows, problems)
        return values, {}

    def _modality(self, name: str, rows: Tensor, epoch: int, problems: Problems) -> Values:
        reader, numbers = self.readers[name], problems.rows
        fail = problems.of(name, lambda row: self._member(row, reader.columns))

        def fail_with_key(place: int, error: Exception) -> None:
            fail(place, self._keyed(numbers[place], error))

        made = reader.read(rows, epoch, fail_with_key, self.mark)
        tensors: Any = list(made.tensors)  # type: ignore[arg-type]  # cells of shards are no whole inputs
        for row, error in self._now.errors(reader.columns):
            fail_with_key(numbers.index(row), error)
            tensors[numbers.index(row)] = None
        return made._replace(tensors=tensors)

    def _keyed(self, row: int, error: Exception) -> Exception:
        """The error with the key of the sample, for the report: there, only the row is known."""
        if self.on_error == "raise":
            return error
        return ValueError(f"key {self._now.samples[row].key!r}: {error}")

    def _named(self, sample: Encoded) -> dict[str, Any]:
        """Key and shard of a sample, and its cells that are text or numbers."""
        named: dict[str, Any] = {"key": sample.key, "shard": sample.shard}
        for column in self._plain:
            with suppress(ValueError):  # counted where it is read
                cell = sample.cell(self._names[column])
                if isinstance(cell, str | int | float):
                    named.setdefault(column, cell)
        return named

    def _member(self, row: int, columns: Iterable[str]) -> str:
        sample = self._now.samples[row]
        kinds = [first_member(self._names[column], sample.members) for column in columns]
        return "".join(f" member {sample.key}.{kind}:" for kind in kinds if kind)

    def _require_labels(self, name: str, rows: Tensor, problems: Problems) -> None:
        """Raise for a member that should hold a label and cannot be read, unless its sample may be skipped."""
        self._table.cells(rows, name)
        for row, error in self._now.errors([name]):
            if self.on_error != "skip":
                raise DataError(
                    f"{self.place(row)}, label of {name!r}: {error} Or pass on_error='skip' to leave out the "
                    "sample; it is counted."
                )
            about = ValueError(f"label of {name!r}: {error}")
            problems.add(problems.rows.index(row), None, self._keyed(row, about))

    def _target(self, name: str, read: ShardRead, keys: Sequence[str | None]) -> Target:
        labels: list[Tensor | None] = []
        for row, key, cell in zip(read.rows, keys, read.labels[name], strict=True):
            try:
                labels.append(None if cell is None or key is None else self.tasks[name].encode(cell))
            except ValueError as error:
                raise DataError(
                    f"{self.place(row)}, key {key!r}, label of {name!r}: {error} To predict, labels are not needed: "
                    f"load_shards(..., columns={{{name!r}: None}})."
                ) from None
        return make_target(labels, self._blanks[name])

    def _fetch(self, rows: list[int]) -> dict[int, Encoded]:
        for row in rows:
            if row not in self._held:
                self._held = {row: self._held[row] for row in rows if row in self._held}  # of a pass that has ended
                self._read_window(row)
        return {row: self._held.pop(row) for row in rows}

    def _read_window(self, row: int) -> None:
        """Read the samples of this batch, and of the next ones of this worker, that lie in the window of a row."""
        run, worker = self._run, get_worker_info()
        if (position := run.position(row)) is None:  # asked for out of turn
            self._held[row] = next(self._stream.read([self._locate(row)]))
            return
        window = run.window(position)
        outputs = dict(zip(window.shuffled, range(window.start, window.start + len(window.shuffled)), strict=True))
        batch = run.batch_of(outputs[position])
        wanted = []
        for position in sorted(outputs):
            ahead = run.batch_of(outputs[position]) - batch
            if ahead >= 0 and ahead % (worker.num_workers if worker else 1) == 0:
                wanted.append(run.row(position))
        self._held |= zip(wanted, self._stream.read(map(self._locate, wanted)), strict=True)
        self.most_held = max(self.most_held, len(self._held))

    def _locate(self, row: int) -> tuple[int, int]:
        """The shard of a sample, and its place there."""
        shard = bisect_right(self._sums, row)
        return shard, row - (self._sums[shard - 1] if shard else 0)


def columns_of(name: str, transform: Transform) -> tuple[str, ...]:
    """The columns that a modality is read from."""
    return tuple(getattr(transform, "columns", None) or (name,))
