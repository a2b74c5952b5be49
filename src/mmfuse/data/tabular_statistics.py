"""What a tabular encoder has to know of the training table: the scale of each number, the list of each category."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmfuse.data.errors import DataError
from mmfuse.data.tables.places import place_of
from mmfuse.data.tables.table import Table
from mmfuse.data.transforms.tabular import as_category, parse_numbers


def tabular_statistics(
    table: Table, *, numbers: Sequence[str] = (), categories: Sequence[str] = (), max_categories: int = 1000
) -> dict[str, dict[str, list[Any]]]:
    """Keywords for a tabular encoder: ``TabularEncoder(64, **tabular_statistics(train, numbers=["age"]))``.

    Mean and standard deviation are those of the cells that are not empty, in float64; a constant column has the
    deviation 1. Categories are in order of their names. They stay with the model, so that what is read later is
    measured by the training table.

    Args:
        table: the training table, and no other: statistics of the test set would give away what they should hide.
        numbers: columns of numbers.
        categories: columns of categories: text, numbers that stand for names, booleans.
        max_categories: warn of a column with more different categories than this.

    Raises:
        DataError: there is no such column, it is empty, or a number is none; the message names the line.
    """
    for name in (*numbers, *categories):
        table.require_column(name)
    return {
        "numbers": {name: _scale(table, name) for name in numbers},
        "categories": {name: _names(table, name, max_categories) for name in categories},
    }


def _scale(table: Table, name: str) -> list[float]:
    try:
        cells = parse_numbers(table.column(name), lambda row: f"{place_of(table, row)}, column {name!r}")
    except ValueError as error:
        raise DataError(str(error)) from None
    known = cells[~np.isnan(cells)]
    if not len(known):
        raise _empty(table, name)
    constant = known.min() == known.max()  # its deviation may still be a rounding error above 0
    return [float(known.mean()), 1.0 if constant else float(known.std())]


def _names(table: Table, name: str, max_categories: int) -> list[str]:
    found = sorted({category for cell in table.column(name) if (category := as_category(cell)) is not None})
    if not found:
        raise _empty(table, name)
    if len(found) > max_categories:
        warnings.warn(
            f"{table.name}: column {name!r} has {len(found)} categories in {len(table)} rows. Expected at most "
            f"{max_categories}, since each has to be seen often to be learnt. Is it an id, or a number? "
            "Leave it out, list it under numbers, or raise max_categories.",
            stacklevel=3,
        )
    return found


def _empty(table: Table, name: str) -> DataError:
    return DataError(f"{table.name}: column {name!r} is empty. Expected at least one cell. Leave the column out.")
