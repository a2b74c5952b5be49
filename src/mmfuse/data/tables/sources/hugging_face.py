"""Datasets of the Hugging Face library, read from their files when asked."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfuse.data.errors import DataError
from mmfuse.data.tables.columns import Column
from mmfuse.data.tables.columns.objects import distinct_cells
from mmfuse.data.tables.sources.arrow import column_of_chunks
from mmfuse.data.tables.sources.own import read_dataset
from mmfuse.data.tables.sources.source import Source

_AT_ONCE = 4096  # rows
_FEW = 512  # rows of a batch, which are read one by one: a block may hold a thousand pictures


def is_hugging_face(source: Any) -> bool:
    """Whether this is a dataset, a dictionary of datasets or a stream of that library; without an import of it."""
    return any(kind.__module__.split(".")[0] == "datasets" for kind in type(source).__mro__)


def read_hugging_face(dataset: Any) -> Source:
    """One split. Pictures and sounds are not decoded but given as bytes or path; class labels as their names."""
    if isinstance(dataset, dict):
        raise DataError(
            f"This is a {type(dataset).__name__} of {sorted(map(str, dataset))}. Expected one of these splits. "
            f"Choose it: dataset[{next(iter(dataset), 'train')!r}]."
        )
    if not hasattr(dataset, "__len__"):
        raise DataError(
            f"This is a {type(dataset).__name__}, which has no length. Expected a dataset of rows. "
            "Load it without streaming=True."
        )
    if dataset.format["type"] == "custom":  # the user's own set_transform
        return read_dataset(dataset)
    columns = {name: HuggingFaceColumn(dataset, name) for name in dataset.column_names}
    return Source("the dataset", Path.cwd(), columns)


class HuggingFaceColumn:
    """One column, on disk."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.name = name
        self.dataset = dataset.select_columns([name]).with_format("arrow")
        feature = dataset.features[name]
        self.classes: Any = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def cell(self, row: int) -> Any:
        return self._read([row])[0]

    def cells(self, rows: Tensor) -> list[Any]:
        if len(rows) <= _FEW:
            return self._read(rows.tolist())
        cells: list[Any] = [None] * len(rows)
        blocks, order = rows.div(_AT_ONCE, rounding_mode="floor").sort(stable=True)
        for places in order.split(blocks.unique_consecutive(return_counts=True)[1].tolist()):
            start = int(rows[places[0]]) // _AT_ONCE * _AT_ONCE
            block = self._read(slice(start, start + _AT_ONCE))  # a hundred times faster than row by row
            for place, row in zip(places.tolist(), rows[places].tolist(), strict=True):
                cells[place] = block[row - start]
        return cells

    def distinct(self, rows: Tensor) -> tuple[list[Any], Tensor]:
        return distinct_cells(self.cells(rows))

    def array(self) -> None:
        return None

    def _read(self, rows: list[int] | slice) -> list[Any]:
        table = self.dataset[rows]
        column: Column = column_of_chunks(list(table.column(self.name).chunks))
        cells = column.cells(torch.arange(len(column)))
        return cells if self.classes is None else [self._named(cell) for cell in cells]

    def _named(self, label: Any) -> Any:
        """The name of a class, or the names of several; -1 is none that is known."""
        if hasattr(label, "tolist"):
            return [self.classes[number] for number in label.tolist()]
        return None if label is None or label < 0 else self.classes[label]
