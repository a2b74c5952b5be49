"""Any source of samples -> a table."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mmfuse._checks import nearest
from mmfuse.data.errors import DataError
from mmfuse.data.tables.columns import Column, EmptyColumn
from mmfuse.data.tables.places import place_of
from mmfuse.data.tables.sources.csv import read_csv
from mmfuse.data.tables.sources.hugging_face import is_hugging_face, read_hugging_face
from mmfuse.data.tables.sources.json_lines import read_json_lines
from mmfuse.data.tables.sources.memory import read_frame, read_mapping, read_rows
from mmfuse.data.tables.sources.own import read_dataset
from mmfuse.data.tables.sources.parquet import read_parquet
from mmfuse.data.tables.sources.source import Source
from mmfuse.data.tables.table import Table

FILES: dict[str, Callable[[Path], Source]] = {
    ".csv": read_csv,
    ".tsv": partial(read_csv, delimiter="\t"),
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
    ".csv.gz": read_csv,
    ".jsonl.gz": read_json_lines,
}


def read_table(
    source: Any,
    *,
    columns: Mapping[str, str | None] | None = None,
    root: str | Path | None = None,
    outside: bool = False,
    id: str | None = None,
) -> Table:
    """Read a table of samples: one row a sample, one column a modality or a label.

    Empty cells are absent modalities and unknown labels. Cells are kept as they are written: ``007``, ``1.0`` and
    ``NA`` are labels. Numbers of Parquet, arrays and datasets are numbers, lists of numbers are arrays there.
    Paths in cells are relative to the table, and may not leave its folder.

    Args:
        source: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file; a pandas frame (missing values are empty cells);
            a list of rows, each a mapping from column to cell; a mapping from column to array, tensor or list; a split
            of a Hugging Face dataset; or any Dataset with a length whose items are mappings from column to cell. The
            last two are read when asked.
        columns: names that differ: ``{"image": "photo_file"}`` reads the modality ``image`` from the column
            ``photo_file``; ``{"audio": None}`` says that this table has no ``audio`` at all.
        root: the folder of the files that cells name, if not that of the table (else: the working folder).
        outside: cells may name files outside of ``root`` too. Only for tables that you trust.
        id: the column that tells samples apart; two rows with the same cell there are refused.

    Raises:
        DataError: the file is missing, empty, of an unknown kind, or has a broken line; the message names the line.
    """
    found = _open(source)
    rows = len(next(iter(found.columns.values()), ()))
    if not rows:
        raise DataError(f"{found.name} has no rows. Expected at least one below the header. Is it the right file?")
    folder = Path(found.root if root is None else root).absolute()  # the working folder may change
    table = Table(found.name, folder, found.columns, found.lines, outside)
    renamed = _rename(table, columns or {})
    if id is not None:
        _require_different_ids(renamed, id)
    return renamed


def _open(source: Any) -> Source:
    if isinstance(source, (str, Path)):
        return _open_file(Path(source))
    if is_hugging_face(source):
        return read_hugging_face(source)
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        return read_frame(source)
    if isinstance(source, Mapping):
        return read_mapping(source)
    if isinstance(source, (list, tuple)):
        return read_rows(source)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__"):
        return read_dataset(source)
    raise TypeError(
        f"read_table got a {type(source).__name__}. Expected a file ({', '.join(FILES)}), a pandas frame, a list of "
        "rows, a mapping of arrays, or a dataset with a length. Put the rows into a list."
    )


def _open_file(path: Path) -> Source:
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.glob("*") if p != path]) if path.parent.is_dir() else ""
        raise DataError(f"{path} is not a file. Expected a table ({', '.join(FILES)}).{near} Check the path.")
    for ending, read in FILES.items():
        if path.name.lower().endswith(ending):
            return read(path)
    raise DataError(
        f"{path.name} is of an unknown kind {path.suffix!r}. Expected {', '.join(FILES)}. "
        "Convert it, or read it with pandas and give the frame to read_table."
    )


def _rename(table: Table, columns: Mapping[str, str | None]) -> Table:
    for name in columns.values():
        if name is not None:
            table.require_column(name)
    kept = [name for name in table.columns if name not in columns and name not in columns.values()]
    taken: dict[str, str | None] = {**{name: name for name in kept}, **columns}
    empty = EmptyColumn(len(table))
    store: dict[str, Column] = {new: empty if old is None else table.store[old] for new, old in taken.items()}
    return Table(table.name, table.root, store, table.numbers, table.outside)


def _require_different_ids(table: Table, name: str) -> None:
    found, codes = table.distinct(name)
    if len(gone := (codes < 0).nonzero()):
        raise DataError(
            f"{place_of(table, int(gone[0]))} has no id in column {name!r}. Expected one in every row. Fill the cell."
        )
    counts = codes.bincount()
    if len(counts) < len(codes):
        code = int((counts > 1).nonzero()[0])
        twice = (codes == code).nonzero().flatten().tolist()
        raise DataError(
            f"{place_of(table, *twice[:2])} have the same id {found[code]!r} in column {name!r}. "
            f"Expected different ids ({len(codes) - len(counts)} rows too many). Remove or rename one of them."
        )
