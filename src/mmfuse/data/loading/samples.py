"""Anybody's own torch Dataset, for the loader."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmfuse._checks import require_known_names
from mmfuse.contracts import Batch, Target
from mmfuse.data.errors import DataError
from mmfuse.data.loading.batches import BatchDataset, Problems
from mmfuse.data.loading.collate import Sample, make_target
from mmfuse.data.loading.reading import Values
from mmfuse.data.loading.report import Read
from mmfuse.data.loading.seeding import Seeded
from mmfuse.data.transforms import Transform


class SampleDataset(BatchDataset):
    """Batches of any torch ``Dataset`` whose items are :class:`Sample`: tensors as the encoders take them.

    ``load_batches`` makes one of a Dataset::

        class Clips(torch.utils.data.Dataset):
            def __len__(self):
                return 1000

            def __getitem__(self, row):
                return Sample({"audio": waveform(row), "text": None}, {"emotion": torch.tensor(2)})

        batches = load_batches(Clips(), model, train=True, workers=2)

    The global generators of torch, numpy and Python are seeded for each sample from ``(seed, epoch, row)``.

    Args:
        samples: with a length, and a Sample for each number below it.
        transforms: those of the encoders: how each modality is padded, and what stands in for an absent one. A
            transform is not called.
        tasks: what the labels mean; a label is a number or a tensor like ``task.blank()``; a task that a
            sample does not name has no known label.
        on_error: what a sample that cannot be made does: ``"raise"``, or ``"skip"``: it counts for nothing.
        max_errors: largest share of such samples, at least one; None: 1 %; 1.0 is no limit.
        check_finite: NaN and infinity are errors.
        seed: of what is random in the samples.
    """

    ways = ("raise", "skip")

    def __init__(
        self,
        samples: Any,
        transforms: Mapping[str, Transform],
        tasks: Mapping[str, nn.Module] | nn.ModuleDict,
        *,
        on_error: str = "raise",
        max_errors: float | None = None,
        check_finite: bool = True,
        seed: int = 0,
    ) -> None:
        if not isinstance(samples, Dataset) or not hasattr(samples, "__len__"):
            raise TypeError(
                f"load_batches got a {type(samples).__name__}. Expected a table, or a torch Dataset with a length "
                "whose items are mmfuse.data.Sample. Read a file with read_table(path)."
            )
        super().__init__(
            len(samples), transforms, tasks, on_error=on_error, max_errors=max_errors, check_finite=check_finite
        )
        self.samples: Any = samples
        self.name = type(samples).__name__
        self._seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: Any) -> Sample:
        """The sample as it was given."""
        return self.samples[row]

    def place(self, row: int, modality: str | None = None) -> str:
        """Number of a row, and a modality."""
        return f"{self.name} sample {row}" + ("" if modality is None else f", {modality!r}")

    def content(self, row: int, modality: str) -> str:  # noqa: ARG002  nobody knows what it was made of
        """Nothing."""
        return ""

    def accept(self, read: Read) -> Batch:
        """As of any dataset; labels that others have encoded are looked at here, because a worker knows no task."""
        for name, target in read.batch.targets.items():
            check = getattr(self.tasks[name], "require_labels", None) if name in self.tasks else None
            if check is None:
                continue
            try:
                check(target.values[target.known])
            except ValueError:
                self._explain(name, target, read.rows, check)
        return super().accept(read)

    def _values(self, rows: Tensor, epoch: int, problems: Problems) -> tuple[dict[str, Values], dict[str, Target]]:
        samples = []
        with Seeded() as generators:
            for place, row in enumerate(rows.tolist()):
                self.mark[0] = row
                generators.seed(self._seed, epoch, row)
                samples.append(self._sample(place, row, problems))
        inputs = {name: Values([sample.inputs.get(name) for sample in samples]) for name in self.transforms}
        targets = {n: make_target([s.targets.get(n) for s in samples], blank) for n, blank in self._blanks.items()}
        return inputs, targets

    def _sample(self, place: int, row: int, problems: Problems) -> Sample:
        try:
            sample = self.samples[row]
            self._require_names(sample)
        except Exception as error:
            problems.add(place, None, error)
            return Sample({}, {})
        labels = {}
        for name, label in sample.targets.items():
            try:
                labels[name] = None if label is None else as_label(label, self._blanks[name])
            except ValueError as error:
                problems.add(place, None, ValueError(f"label of {name!r}: {error}"))
        return Sample(sample.inputs, labels)

    def _require_names(self, sample: Any) -> None:
        if not isinstance(sample, Sample):
            cells = "Items of raw cells are a table: load_batches(read_table(dataset), model)"
            raise TypeError(
                f"It is a {type(sample).__name__}. Expected a mmfuse.data.Sample(inputs, targets). "
                f"{cells if isinstance(sample, Mapping) else 'Return one'}"
            )
        require_known_names("Sample.inputs", sample.inputs, self.transforms, "modality")
        require_known_names("Sample.targets", sample.targets, self._blanks, "task")

    def _explain(self, name: str, target: Target, rows: Any, check: Any) -> None:
        for row, value, known in zip(rows, target.values, target.known.tolist(), strict=True):
            try:
                if known:
                    check(value[None])
            except ValueError as error:
                raise DataError(f"{self.place(row)}, label of {name!r}: {error}") from None


def as_label(label: Any, blank: Tensor) -> Tensor:
    """A label as a tensor like a blank: a number or an array may stand for it.

    Raises:
        ValueError: it is no number, or has another shape, or its numbers would not stay what they are.
    """
    try:
        tensor = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"It is a {type(label).__name__}: {str(label)[:80]!r}. Expected a number, or a tensor like task.blank(). "
            "Encode it: task.encode(label)."
        ) from None
    if tensor.shape != blank.shape:
        raise ValueError(
            f"It has shape {tuple(tensor.shape)}. Expected {tuple(blank.shape)}. Give a tensor like task.blank()."
        )
    if not torch.can_cast(tensor.dtype, blank.dtype):
        raise ValueError(f"It is {tensor.dtype}. Expected {blank.dtype}, as task.blank() has. Give a whole number.")
    return tensor.to(blank.dtype)
