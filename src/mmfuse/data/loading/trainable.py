"""Refuses a table from which nothing can be learnt, before the first step."""

from mmfuse.data.errors import DataError
from mmfuse.data.loading.dataset import TableDataset


def require_trainable(dataset: TableDataset) -> None:
    """Raise DataError unless every modality stands in some row and every task has labels to tell apart."""
    for name, reader in dataset.readers.items():
        if not reader.has_any():
            raise DataError(
                f"{dataset.name}: no row has the modality {name!r}: column {reader.columns[0]!r} is empty throughout. "
                "Expected some to train on. Fill some cells, or build the model without this modality."
            )
    for name, labels in dataset.targets.items():
        if not labels.known:
            raise DataError(f"{dataset.name}: column {name!r} has no label. Expected at least one to train on.")
        if hasattr(dataset.tasks[name], "classes") and labels.different < 2:
            raise DataError(
                f"{dataset.name}: all labels in column {name!r} are the same. Expected two or more classes to learn "
                "to tell apart. Is it a part of a sorted table? Split it with table.split."
            )
