"""Several columns of numbers and categories -> one float32 vector with a fixed layout."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmfuse._record import recorded
from mmfuse.contracts import Input

MISSING, UNSEEN, FIRST = 0, 1, 2  # codes of a category: an empty cell, one that training never saw, the first known one


@recorded
class TabularTransform:
    """Standardise numbers with the statistics of the training table, and look categories up in its lists.

    Takes a mapping from column to cell, None where empty. One row becomes, in this order:

    - each number as ``(x - mean) / std``; 0 where the cell is empty,
    - for each number, 1 where the cell is not empty and 0 where it is,
    - the code of each category: 0 for an empty cell, 1 for a category that is not in the list, 2 for the first one of
      the list, and so on.

    An empty cell is nothing out of the ordinary, and neither is a category that training never saw. A number may be
    written as text (``"1.5"``, as in CSV files) and a category as a number: ``1``, ``1.0`` and ``"1.0"`` are the
    category ``"1"``, since pandas writes all of them for the same column.

    Args:
        numbers: mean and standard deviation of each column of numbers: ``{"age": [61.2, 13.5]}``.
        categories: the known categories of each column: ``{"sex": ["female", "male"]}``.

    Raises:
        ValueError: a column of numbers holds text or what is not finite; a column is missing.
    """

    takes_path = False
    padding = None
    random = False

    def __init__(
        self,
        *,
        numbers: Mapping[str, Sequence[float]] | None = None,
        categories: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        require_columns("TabularTransform", numbers or {}, categories or {})
        self.numbers = {name: (float(mean), float(std)) for name, (mean, std) in (numbers or {}).items()}
        self.categories = {name: list(known) for name, known in (categories or {}).items()}
        self.columns = (*self.numbers, *self.categories)
        statistics = np.array(list(self.numbers.values()), dtype=np.float64).reshape(-1, 2)
        self._mean, self._std = statistics[:, 0], statistics[:, 1]
        self._codes: list[dict[str | None, int]] = [
            {None: MISSING} | {category: code for code, category in enumerate(known, start=FIRST)}
            for known in self.categories.values()
        ]

    def __call__(self, value: Mapping[str, Any]) -> Float[Tensor, " width"]:
        return self._rows([value])[0]

    def batch(self, values: Sequence[Mapping[str, Any]]) -> tuple[list[Float[Tensor, " width"]], list[int]]:
        """The vectors of several rows; nothing is ever cut off."""
        return list(self._rows(values)), [0] * len(values)

    def blank(self) -> Float[Tensor, " width"]:
        """What stands in for an absent sample: a row of empty cells."""
        return torch.zeros(2 * len(self.numbers) + len(self.categories))

    def mix(self, first: Input, second: Input, share: Float[Tensor, " batch"]) -> Input:
        """For :class:`mmfuse.data.Mixup`: numbers that both have are interpolated; a code between two means nothing.

        Categories, what is missing, and a number that only one has are those of the row with the larger share.
        """
        larger = torch.where(share[:, None] >= 0.5, first.values, second.values)
        numbers = len(self.numbers)
        both = (first.values * second.values)[:, numbers : 2 * numbers] > 0.5
        weight = share[:, None].to(larger.dtype)
        between = weight * first.values[:, :numbers] + (1 - weight) * second.values[:, :numbers]
        mixed = torch.where(both, between, larger[:, :numbers])
        return Input(torch.cat([mixed, larger[:, numbers:]], dim=1), first.present)

    def _rows(self, values: Sequence[Mapping[str, Any]]) -> Float[Tensor, "row width"]:
        for value in values:
            if not isinstance(value, Mapping) or not set(self.columns) <= value.keys():
                given = sorted(value) if isinstance(value, Mapping) else type(value).__name__
                raise ValueError(
                    f"TabularTransform got {given}. Expected a mapping with the columns {list(self.columns)}. "
                    "Give None for an empty cell."
                )
        numbers = parse_numbers([value[name] for value in values for name in self.numbers], self._column)
        with np.errstate(over="ignore"):
            scaled = (numbers.reshape(len(values), -1) - self._mean) / self._std
            scaled = scaled.astype(np.float32)
        if (far := np.isinf(scaled)).any():
            name = list(self.numbers)[int(far.any(axis=0).argmax())]
            raise ValueError(f"The number in column {name!r} is too large for float32. Expected another unit. Mend it.")
        codes = [[known.get(as_category(value[name]), UNSEEN) for name, known in self._known()] for value in values]
        known = ~np.isnan(scaled)
        parts = (np.nan_to_num(scaled), known, np.array(codes, dtype=np.float32).reshape(len(values), -1))
        return torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32))

    def _known(self) -> list[tuple[str, dict[str | None, int]]]:
        return list(zip(self.categories, self._codes, strict=True))

    def _column(self, index: int) -> str:
        return f"column {list(self.numbers)[index % len(self.numbers)]!r}"


def split_row(
    values: Float[Tensor, "batch width"], numbers: int
) -> tuple[Float[Tensor, "batch number"], Bool[Tensor, "batch column"], Int[Tensor, "batch category"]]:
    """Numbers (0 where missing), which cells are observed, and codes, of what :class:`TabularTransform` makes.

    Args:
        values: rows in the layout of the transform, finite.
        numbers: how many columns of numbers there are.
    """
    cells, flags, codes = values.tensor_split((numbers, 2 * numbers), dim=1)
    observed = torch.cat([flags > 0.5, codes > 0.5], dim=1)
    return torch.where(observed[:, :numbers], cells, 0.0), observed, codes.long()


def parse_numbers(cells: Sequence[Any], place: Any) -> Any:
    """Cells as float64, NaN where empty. A cell that is no finite number raises ValueError with ``place(index)``."""
    empty = [cell is None or (isinstance(cell, float) and math.isnan(cell)) for cell in cells]
    try:
        numbers = np.array([math.nan if gone else float(cell) for cell, gone in zip(cells, empty, strict=True)])
        wrong = ~np.isfinite(numbers) & ~np.array(empty, dtype=bool)
        bad = int(wrong.argmax()) if wrong.any() else None
    except (TypeError, ValueError, OverflowError):
        bad = next(i for i, (cell, gone) in enumerate(zip(cells, empty, strict=True)) if not (gone or _is_finite(cell)))
    if bad is not None:
        raise ValueError(
            f"{place(bad)} is not a finite number: {str(cells[bad])[:60]!r}. Expected numbers with a point, such as "
            "1.5. Mend the cell, leave it empty if the number is not known, or list the column under categories."
        )
    return numbers


def as_category(cell: Any) -> str | None:
    """A cell as the name of a category; None where it is empty. 1.0, what pandas makes of 1 beside a gap, is "1"."""
    if cell is None or (isinstance(cell, float | np.floating) and math.isnan(cell)):
        return None
    name = str(cell)
    return name[:-2] if name.endswith(".0") and name[:-2].lstrip("-").isdecimal() else name


def require_columns(
    owner: str, numbers: Mapping[str, Sequence[float]], categories: Mapping[str, Sequence[str]]
) -> None:
    """Raise ValueError unless there is a column, each is of one kind, and what is said of it can be used."""
    if not numbers and not categories:
        raise ValueError(
            f"{owner} got no columns. Expected numbers=, categories=, or both. Use tabular_statistics to make them."
        )
    if both := sorted(set(numbers) & set(categories)):
        raise ValueError(f"{owner} got {both} as numbers and as categories. Expected one of the two. Choose.")
    for name, pair in numbers.items():
        if len(pair) != 2 or not all(map(_is_finite, pair)) or not pair[1] > 0:
            raise ValueError(
                f"{owner} got {pair!r} for the numbers in column {name!r}. Expected mean and standard deviation, "
                "finite, the second above 0. Use tabular_statistics to make them."
            )
    for name, known in categories.items():
        if isinstance(known, str) or not known or len(set(known)) != len(known):
            raise ValueError(
                f"{owner} got {known!r} for the categories in column {name!r}. Expected a list of different names. "
                "Use tabular_statistics to make it."
            )


def _is_finite(cell: Any) -> bool:
    try:
        return math.isfinite(float(cell))
    except (TypeError, ValueError, OverflowError):
        return False
