"""How long the modalities of each row are, told without decoding them, and what a row costs by that."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmfuse._checks import nearest
from mmfuse.data.errors import DataError
from mmfuse.data.loading.batches import BatchDataset

BucketBy = str | Mapping[str, int | float] | Callable[[Mapping[str, Any]], Any] | Sequence[int | float] | np.ndarray


class Measured(Mapping):
    """Lengths of all rows by modality, or by a column of numbers: measured when they are asked for first.

    Absent samples are as long as what stands in for them.
    """

    def __init__(self, dataset: BatchDataset) -> None:
        self.known: dict[str, np.ndarray] = {}
        self._dataset: Any = dataset

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.known:
            self.known[name] = self._measure(name)
        return self.known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._dataset.transforms)

    def __len__(self) -> int:
        return len(self._dataset.transforms)

    def _measure(self, name: str) -> np.ndarray:
        readers, table = getattr(self._dataset, "readers", {}), getattr(self._dataset, "table", None)
        transform = self._dataset.transforms.get(name)
        if transform is not None and transform.padding is not None and name in readers:
            return np.maximum(readers[name].lengths(), len(transform.blank()))
        if table is not None and name in table.columns and transform is None:
            return _numbers(name, table.column(name))
        known = [name for name, transform in self._dataset.transforms.items() if transform.padding is not None]
        raise ValueError(
            f"bucket_by: the length of {name!r} is not known. Expected a modality of sequences of a table, such as "
            f"{known}, or a column of numbers.{nearest(name, known)} Or give a number for each row: bucket_by=lengths."
        )


def measured(
    dataset: BatchDataset, bucket_by: BucketBy | None
) -> tuple[dict[str, np.ndarray], Callable[[Mapping[str, Any]], Any], dict[str, int | float]]:
    """The lengths of all rows that count, what a row of some lengths costs, and weights for shares over modalities.

    Raises:
        ValueError: something is asked for that has no length.
        DataError: a row costs nothing, or its cost is no finite number.
    """
    lengths = Measured(dataset)
    cost, weights = _cost_of(dataset, lengths, bucket_by)
    costs = np.asarray(cost(lengths), dtype=np.float64)
    if costs.shape != (len(dataset),):
        raise ValueError(
            f"bucket_by gave costs of shape {costs.shape}. Expected one for each of {len(dataset)} rows. Calculate "
            "with the arrays of lengths that it gets: lengths['audio'] / 320 + lengths['text']."
        )
    if len(bad := np.flatnonzero(~(np.isfinite(costs) & (costs > 0)))):
        raise DataError(
            f"{dataset.place(int(bad[0]))} costs {costs[bad[0]]:g} by bucket_by. Expected a finite number above 0. "
            "Mend the column, or the weights."
        )
    return lengths.known, cost, weights


def require_fit(dataset: BatchDataset, costs: np.ndarray, max_tokens: int | float) -> None:
    """Raise DataError for a row that alone costs more than a batch may."""
    if len(bad := np.flatnonzero(costs > max_tokens)):
        raise DataError(
            f"{dataset.place(int(bad[0]))} costs {costs[bad[0]]:g} alone, and so do {len(bad) - 1} more rows that are "
            f"too long. Expected at most max_tokens={max_tokens:g}. Raise it, or let the transform cut long ones off."
        )


def _cost_of(
    dataset: BatchDataset, lengths: Measured, by: BucketBy | None
) -> tuple[Callable[[Mapping[str, Any]], Any], dict[str, int | float]]:
    if callable(by):
        return by, {}
    if by is None:
        sequences = [name for name, transform in dataset.transforms.items() if transform.padding is not None]
        if len(sequences) != 1:
            raise ValueError(
                f"load_batches got max_tokens without bucket_by, and the model has {len(sequences)} modalities of "
                f"sequences: {sequences}. Expected to know what counts. Name one, bucket_by='text', or weigh them: "
                "bucket_by={'text': 1, 'audio': 1 / 320}."
            )
        by = sequences[0]
    if not isinstance(by, str | Mapping):
        lengths.known[""] = _numbers("", by)
        return lambda given: given[""], {}
    weights = {by: 1.0} if isinstance(by, str) else dict(by)
    if not weights or not all(weight > 0 for weight in weights.values()):
        raise ValueError(
            f"bucket_by got the weights {weights}. Expected numbers above 0. Leave out what counts nothing."
        )
    return lambda given: sum(weight * given[name] for name, weight in weights.items()), weights


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray([0 if value is None else value for value in values], dtype=np.float64)
    except (TypeError, ValueError):
        what = f"the column {name!r}" if name else f"a {type(values).__name__}"
        raise ValueError(
            f"bucket_by got {what}, which does not hold numbers alone. Expected a number for each row. Name a "
            "modality, a column of numbers, weights by name, a function of lengths, or give a list of numbers."
        ) from None
