"""The cells of a table in blocks, with those that cannot be had in place of an end."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmfuse.data.inspection.plan import Modality
from mmfuse.data.tables.columns import ArrayColumn, PackedColumn, RaggedColumn
from mmfuse.data.tables.columns.objects import distinct_cells
from mmfuse.data.tables.columns.packed import EMPTY
from mmfuse.data.tables.table import Table

_AT_ONCE = 4096  # rows


class Failed(NamedTuple):
    """Stands for a cell that cannot be had: of a user's own Dataset, which raises."""

    error: Exception


def some_cells(table: Table, rows: Int[Tensor, " row"], column: str) -> list[Any]:
    """The cells of some rows: None where empty, :class:`Failed` where reading one raises."""
    try:
        return table.cells(rows, column)
    except ImportError:
        raise
    except Exception:
        return [_cell(table, row, column) for row in rows.tolist()]


def blocks(
    table: Table, rows: Int[Tensor, " row"], columns: Sequence[str], size: int = _AT_ONCE
) -> Iterator[tuple[Int[Tensor, " row"], list[list[Any]]]]:
    """Some rows at a time, and their cells column by column."""
    for some in rows.split(size) if len(rows) else ():
        yield some, [some_cells(table, some, column) for column in columns]


def present_rows(table: Table, columns: Sequence[str]) -> Bool[Tensor, " row"]:
    """Which rows have a cell in any of these columns."""
    return torch.stack([_present(table, column) for column in columns]).any(dim=0)


def value_of(table: Table, modality: Modality, cells: Sequence[Any]) -> Any:
    """What a transform gets of the cells of a row; ValueError for a path that is refused."""
    for cell in cells:
        if isinstance(cell, Failed):
            raise ValueError(str(cell.error)) from cell.error
    if modality.takes_path:
        cells = [table.path(cell) if isinstance(cell, str) else cell for cell in cells]
    if getattr(modality.transform, "columns", None):
        return dict(zip(modality.columns, cells, strict=True))
    return cells[0]


def distinct(table: Table, column: str) -> tuple[Sequence[Any], Tensor, dict[int, str]]:
    """As ``table.distinct``, and the reason for each row whose cell cannot be had: it counts as empty."""
    try:
        return *table.distinct(column), {}
    except ImportError:
        raise
    except Exception:
        cells = [cell for _, [part] in blocks(table, torch.arange(len(table)), [column]) for cell in part]
    failed = {row: str(cell.error) for row, cell in enumerate(cells) if isinstance(cell, Failed)}
    return *distinct_cells([None if isinstance(cell, Failed) else cell for cell in cells]), failed


def choose(rows: Int[Tensor, " row"], most: int | None, seed: int) -> Int[Tensor, " chosen"]:
    """At most so many of some rows, at random, in their order."""
    if most is None or len(rows) <= most:
        return rows
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:most].sort().values]


def in_threads(pool: ThreadPoolExecutor | None, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """The results in the order of the items: decoders and hashes let go of Python's lock."""
    return map(function, items) if pool is None else pool.map(function, items)


def _cell(table: Table, row: int, column: str) -> Any:
    try:
        return table.cell(row, column)
    except Exception as error:
        return Failed(error)


def _present(table: Table, column: str) -> Tensor:
    store = table.store[column]
    everywhere = torch.ones(len(store), dtype=torch.bool)
    if isinstance(store, PackedColumn):
        found = store.kinds != EMPTY
    elif isinstance(store, ArrayColumn | RaggedColumn):
        found = everywhere if store.known is None else store.known
    else:
        blocks = torch.arange(len(table)).split(_AT_ONCE)
        kept = [cell is not None for rows in blocks for cell in some_cells(table, rows, column)]
        return torch.tensor(kept, dtype=torch.bool)
    return found if table.chosen is None else found[table.chosen]
