"""Parquet files, a batch of rows at a time. Numbers stay numbers, lists become arrays, bytes stay bytes."""

from pathlib import Path
from typing import Any

from mmfuse.data.errors import DataError
from mmfuse.data.tables.sources.arrow import column_of_chunks, size_of
from mmfuse.data.tables.sources.source import Source, require_different

MOST_ROWS = 100_000_000
MOST_EXPANSION = 200  # times the size of the file
SMALL = 2**26  # bytes; a file may always hold this much
_AT_ONCE = 65_536  # rows


def read_parquet(path: Path) -> Source:
    """A table; refused if it holds very much more than its size says."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ImportError(
            f"{path.name} is a Parquet file, which pyarrow reads. Expected it to be installed. "
            "Run: pip install 'mmfuse[tables]'."
        ) from None
    try:
        metadata = pq.read_metadata(path)
        _require_size(path, metadata)
        texts = [str(field.name) for field in metadata.schema.to_arrow_schema() if _is_text(pa, field.type)]
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            return _read(path, file)
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())  # of several lines in older versions
        raise DataError(
            f"{path.name} is not a whole Parquet file: {said[:150]}. Expected one. Write it again."
        ) from None


def _read(path: Path, file: Any) -> Source:
    names = file.schema_arrow.names
    require_different(path.name, names)
    left = max(SMALL, MOST_EXPANSION * path.stat().st_size)
    chunks: dict[str, list[Any]] = {name: [] for name in names}
    for batch in file.iter_batches(batch_size=_AT_ONCE):
        for name, array in zip(names, batch.columns, strict=True):
            left -= size_of(array)  # before a dictionary is written out
            if left < 0:
                raise _bomb(path)
            chunks[name].append(array)
    return Source(path.name, path.parent, {name: column_of_chunks(arrays) for name, arrays in chunks.items()})


def _require_size(path: Path, metadata: Any) -> None:
    if metadata.num_rows > MOST_ROWS:
        raise DataError(
            f"{path.name} has {metadata.num_rows} rows. Expected {MOST_ROWS} at most. Split it into several files."
        )
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    if sum(group.total_byte_size for group in groups) > max(SMALL, MOST_EXPANSION * path.stat().st_size):
        raise _bomb(path)


def _bomb(path: Path) -> DataError:
    return DataError(
        f"{path.name} holds more than {MOST_EXPANSION} times its size. Expected a table, not a bomb. "
        "If you trust it, read it with pandas and give the frame to read_table."
    )


def _is_text(pa: Any, kind: Any) -> bool:
    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string))
