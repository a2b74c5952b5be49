"""What a Python program holds already: a pandas frame, a list of rows, or a mapping from column to array."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfuse.data.errors import DataError
from mmfuse.data.tables.columns import named_column
from mmfuse.data.tables.sources.source import Source, require_different


def read_frame(frame: Any) -> Source:
    """A pandas frame; missing values are empty cells."""
    header = [str(name) for name in frame.columns]
    require_different("the frame", header)
    columns = {}
    for place, name in enumerate(header):
        cells = frame.iloc[:, place]
        gone = cells.isna()
        values = [None if missing else value for value, missing in zip(cells.tolist(), gone.tolist(), strict=True)]
        columns[name] = named_column("the frame", name, values)
    return Source("the frame", Path.cwd(), columns)


def read_rows(rows: Sequence[Mapping[Any, Any]]) -> Source:
    """A list of rows, each a mapping from column to cell, that may lack some of the columns."""
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(
                f"Row {number} of the list is a {type(row).__name__}. Expected a mapping from column to cell. "
                "Write it as {'text': 'hello', 'label': 'greeting'}."
            )
    named = [{str(name): cell for name, cell in row.items()} for row in rows]
    header = dict.fromkeys(name for row in named for name in row)
    columns = {name: named_column("the list", name, [row.get(name) for row in named]) for name in header}
    return Source("the list", Path.cwd(), columns)


def read_mapping(mapping: Mapping[Any, Any]) -> Source:
    """A mapping from column to array, tensor or list, all of one length. An array is held as it is."""
    for name, values in mapping.items():
        if isinstance(values, (str, bytes)) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:
            raise DataError(
                f"Column {name!r} of the mapping is a {type(values).__name__}. Expected an array or a list with a cell "
                "for every row. For one row, put the mapping into a list."
            )
    lengths = {str(name): len(values) for name, values in mapping.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"The columns of the mapping differ in length: {lengths}. Expected a cell for every row in each. "
            "Write None for an empty cell."
        )
    columns = {str(name): named_column("the mapping", str(name), values) for name, values in mapping.items()}
    return Source("the mapping", Path.cwd(), columns)
