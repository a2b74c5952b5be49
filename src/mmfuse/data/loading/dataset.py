"""Rows of a table as samples: files read, cells transformed, labels encoded."""

from collections.abc import Mapping

from torch import Tensor, nn

from mmfuse.contracts import Target
from mmfuse.data.loading.batches import BatchDataset, Problems
from mmfuse.data.loading.collate import Sample, make_target
from mmfuse.data.loading.labels import encode_labels
from mmfuse.data.loading.reading import Values, reader_of
from mmfuse.data.tables.places import place_of
from mmfuse.data.tables.table import Table
from mmfuse.data.transforms import Transform

__all__ = ["Sample", "TableDataset"]


class TableDataset(BatchDataset):
    """Batches and samples of a table, made when asked for.

    All randomness in a cell is a function of ``(seed, epoch, row, modality)``, so that it does not depend on the number
    of workers or on what was read before. Labels are encoded at once: a label that is not a class is an error before
    training starts.

    Args:
        table: the rows. A modality is read from the column of its name, or those that its transform names.
        transforms: how each modality's cell becomes a tensor.
        tasks: what encodes each label; a task without a column has no known label.
        on_error: what a cell that cannot be read does: ``"raise"``; make the modality ``"absent"`` in that sample; or
            ``"skip"`` the row: it stays in its batch, without any modality and any label. :attr:`report` lists them.
        max_errors: largest share of such rows, at least one row; None: 1 % with ``"skip"``, half with ``"absent"``;
            1.0 is no limit.
        check_finite: NaN and infinity cannot be read either.
        cache: keep what was read in memory (for tables whose rows share files); not where a transform is random.
        seed: of what is random in the transforms.
    """

    def __init__(  # noqa: PLR0913  flat keywords, as of load_batches
        self,
        table: Table,
        transforms: Mapping[str, Transform],
        tasks: Mapping[str, nn.Module] | nn.ModuleDict,
        *,
        on_error: str = "raise",
        max_errors: float | None = None,
        check_finite: bool = True,
        cache: bool = False,
        seed: int = 0,
    ) -> None:
        self.name = table.name
        super().__init__(
            len(table), transforms, tasks, on_error=on_error, max_errors=max_errors, check_finite=check_finite
        )
        self.table = table
        self.readers = {n: reader_of(table, n, t, cache=cache, seed=seed) for n, t in self.transforms.items()}
        self.targets = {name: encode_labels(table, name, task) for name, task in tasks.items() if name in table.columns}

    def __len__(self) -> int:
        return len(self.table)

    def place(self, row: int, modality: str | None = None) -> str:
        """File and line of a row, and the columns of a modality."""
        where = place_of(self.table, row)
        if modality is None:
            return where
        columns = self.readers[modality].columns
        return f"{where}, column{'s' * (len(columns) > 1)} {', '.join(map(repr, columns))}"

    def content(self, row: int, modality: str) -> str:
        """The text of a cell."""
        return self.readers[modality].content(row)

    def _values(self, rows: Tensor, epoch: int, problems: Problems) -> tuple[dict[str, Values], dict[str, Target]]:
        values = {
            name: reader.read(rows, epoch, problems.of(name, reader.where), self.mark)
            for name, reader in self.readers.items()
        }
        targets = {
            name: self.targets[name].take(rows) if name in self.targets else make_target([None] * len(rows), blank)
            for name, blank in self._blanks.items()
        }
        return values, targets
