"""Labels and numbers in the cells of a column."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor


def classes_of(cells: Iterable[Any], separator: str | None) -> list[str]:
    """The different labels in some cells, in order: as numbers if all are, else as text."""
    found: set[str] = set()
    for cell in cells:
        several = isinstance(cell, list) or separator is not None
        found.update(_labels(cell, separator) if several else [str(cell)])
    return sorted(found, key=_number_or_text(found))


def statistics_of(cells: Sequence[Any], codes: Tensor) -> tuple[dict[str, float], int | None]:
    """Mean and standard deviation of numbers, where row ``i`` has ``cells[codes[i]]``; or the place of no number."""
    counts = codes[codes >= 0].bincount(minlength=len(cells)).tolist()
    numbers = [_number(cell) for cell in cells]
    wrong = next((place for place, number in enumerate(numbers) if not math.isfinite(number)), None)
    if wrong is not None:
        return {}, wrong
    total = sum(counts)
    mean = math.fsum(count * number for count, number in zip(counts, numbers, strict=True)) / total
    squares = (count * (number - mean) ** 2 for count, number in zip(counts, numbers, strict=True))
    constant = min(numbers) == max(numbers)  # its deviation may still be a rounding error above 0
    return {"mean": mean, "std": 1.0 if constant else math.sqrt(math.fsum(squares) / total)}, None


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def _labels(cell: Any, separator: str | None) -> list[str]:
    parts = cell if isinstance(cell, list) else str(cell).split(separator)
    return [str(part).strip() for part in parts if str(part).strip()]


def _number_or_text(labels: Iterable[str]) -> Any:
    """Sort key: by value if every label is a number, else as text."""
    try:
        values = {label: float(label) for label in labels}
    except ValueError:
        return str
    if not all(map(math.isfinite, values.values())):
        return str  # nothing is above or below NaN: the order would depend on chance
    return lambda label: (values[label], label)
