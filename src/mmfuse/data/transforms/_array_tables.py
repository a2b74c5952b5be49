"""Tables of numbers, as CSV and as Parquet -> numpy array (rows, columns)."""

import csv
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmfuse.data.transforms._array_files import ArrayFile
from mmfuse.data.transforms._time_stamps import from_datetime64, is_stamp, seconds_after

EMPTY = re.compile(r'(?m)(?:^[ \t]*(?=,))|(?<=,)[ \t]*(?=,|$)|""')

TIMES_TOO = ", or points of time such as 2024-01-31 12:00:00"


def read_csv(source: ArrayFile) -> Any:
    """Numbers with commas between them; a first line that holds anything else is the header. Blank lines are skipped.

    An empty cell is NaN.
    """
    source.require_room(4 * source.size)  # "1," becomes 8 bytes
    try:
        text = source.file.read().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise ValueError(
            "The file is neither an array file that is known nor UTF-8 text. Expected .npy, .npz, .safetensors, "
            ".parquet, or .csv with numbers. Convert it to one of them."
        ) from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    is_data = _is_number_or_stamp if source.stamps else _is_number
    header = _header(lines[0][1]) if lines and not all(map(is_data, _cells(lines[0][1]))) else None
    rows = lines if header is None else lines[1:]
    if not rows:
        raise ValueError("The table of numbers has no rows. Expected at least one. Fill it, or empty the cell.")
    array = _parse(rows, source)
    if source.key is not None:
        column = source.name_of(header or [], "column")
        array = array[:, (header or []).index(column)]
    elif header is not None and len(header) == array.shape[1]:  # it is a title otherwise
        source.names = header
    return source.cut(array)


def _parse(rows: list[tuple[int, str]], source: ArrayFile) -> Any:
    """The lines as numbers; where the first cell of a column is a point of time, its seconds since then."""
    filled = EMPTY.sub("nan", "\n".join(line for _, line in rows))
    first = _cells(rows[0][1])
    source.stamped = [i for i, cell in enumerate(first) if source.stamps and not _is_number(cell) and is_stamp(cell)]
    stamps: dict[int | str, Callable[[str], Any]] = {i: seconds_after(first[i]) for i in source.stamped}
    try:
        return np.loadtxt(
            filled.split("\n"),
            delimiter=",",
            ndmin=2,
            quotechar='"',
            comments=None,
            converters=stamps or None,
            encoding="utf-8",
        )
    except ValueError:
        raise _bad_line(rows, stamps, TIMES_TOO if source.stamps else "") from None


def read_parquet(source: ArrayFile) -> Any:
    """A table of columns of numbers, or one column of lists of one length; null is NaN."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise ImportError("Parquet needs pyarrow. Install it with: pip install 'mmfuse[tables]'") from None
    try:
        file = ParquetFile(source.file)
        meta = file.metadata
        names = list(file.schema_arrow.names)
        names = names if source.key is None else [source.name_of(names, "column")]
        source.require_room(8 * _count_values(meta, names))
        table = file.read(columns=names)
    except (ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"The file is not a Parquet file that can be read: {reason}. Expected a whole file. Copy it again."
        ) from None
    columns = [
        _column(name, column.combine_chunks(), source) for name, column in zip(names, table.columns, strict=True)
    ]
    source.stamped = [i for i, column in enumerate(table.columns) if _is_time(column.type)]
    if len(columns) > 1 and any(column.ndim > 1 for column in columns):
        raise ValueError(
            f"The Parquet file has columns {names}, and lists in some. Expected numbers in all, or one column of "
            "lists. Say which with key=."
        )
    if len(columns) == 1 and (source.key or columns[0].ndim > 1):
        return source.cut(columns[0])
    source.names = names
    return source.cut(np.stack(columns, axis=1))


def _count_values(meta: Any, names: list[str]) -> int:
    """How many numbers the columns hold, as the footer says: repeated ones take no room in the file."""
    chunks = (meta.row_group(i).column(j) for i in range(meta.num_row_groups) for j in range(meta.num_columns))
    return sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.split(".")[0] in names)


def _is_time(kind: Any) -> bool:
    import pyarrow.types as kinds

    return kinds.is_timestamp(kind) or kinds.is_date(kind)


def _column(name: str, column: Any, source: ArrayFile) -> Any:
    import pyarrow.types as kinds

    if source.stamps and _is_time(column.type):
        return from_datetime64(column.to_numpy(zero_copy_only=False))
    is_list = kinds.is_list(column.type) or kinds.is_large_list(column.type) or kinds.is_fixed_size_list(column.type)
    values = column.flatten() if is_list else column
    if not (kinds.is_integer(values.type) or kinds.is_floating(values.type) or kinds.is_boolean(values.type)):
        raise ValueError(
            f"The Parquet column {name!r} is of type {column.type}. Expected numbers, or lists of numbers. "
            "Leave it out, or convert it."
        )
    values = values.cast("uint8") if kinds.is_boolean(values.type) else values
    numbers = values.to_numpy(zero_copy_only=False)
    if not is_list:
        return numbers
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"The Parquet column {name!r} has lists of lengths {sorted(map(str, lengths))[:5]}. Expected one length. "
            "Fill them up, or write one file for each."
        )
    return numbers.reshape(len(column), -1)


def _cells(line: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(",")]


def _header(line: str) -> list[str]:
    """The names of the columns; numpy writes "# " before the first."""
    line = line.removeprefix("#").strip()
    try:
        return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
    except csv.Error:  # no header, but a very long line of something else
        return _cells(line)


def _is_number_or_stamp(cell: str) -> bool:
    return _is_number(cell) or is_stamp(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True


def _bad_line(rows: list[tuple[int, str]], stamps: Mapping[int | str, Callable[[str], Any]], too: str) -> ValueError:
    """Which line it was. Found again here, because this is slow and seldom."""
    width = len(_cells(rows[0][1]))
    for number, line in rows:
        cells = _cells(line)
        for place, cell in enumerate(cells):
            if place not in stamps and not _is_number(cell):
                return ValueError(
                    f"Line {number} of the table of numbers holds {cell[:40]!r}. Expected numbers with a point, "
                    f"separated by commas{too}. Mend the cell, or leave it empty where the number is not known."
                )
            try:
                stamps.get(place, float)(cell or "nan")
            except ValueError as error:
                return ValueError(f"Line {number} of the table of numbers: {error}")
        if len(cells) != width:
            return ValueError(
                f"Line {number} of the table of numbers has {len(cells)} cells. Expected {width}, as in the first. "
                "Put a comma for each empty cell too."
            )
    return ValueError("The table of numbers cannot be read. Expected numbers separated by commas. Write it again.")
