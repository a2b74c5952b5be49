"""Rows into parts without a row, or a group, in common."""

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def parts_of(
    rows: int, groups: tuple[Sequence[Any], Tensor] | None, shares: Sequence[float], seed: int
) -> list[Tensor]:
    """The rows of each part, in their order.

    Args:
        rows: how many there are.
        groups: the different keys, and which of them each row has (-1: none, a group of its own).
        shares: of the rows, or of the groups, that go into each part.
        seed: of the order.
    """
    if not shares or min(shares) <= 0 or not math.isclose(sum(shares), 1.0):
        raise ValueError(f"split got shares {shares}. Expected positive numbers that add up to 1. Try 0.8, 0.1, 0.1.")
    if groups is None:
        keys, codes = list(range(rows)), torch.arange(rows)
    else:
        keys, codes = _numbered(*groups)
    random.Random(seed).shuffle(keys)
    ends = torch.tensor([round(sum(shares[: i + 1]) * len(keys)) for i in range(len(shares) - 1)], dtype=torch.int64)
    part_of_place = torch.bucketize(torch.arange(len(keys)), ends, right=True)
    part_of_key = torch.empty(len(keys), dtype=torch.int64).index_put((torch.tensor(keys),), part_of_place)
    return [(part_of_key[codes] == part).nonzero().flatten() for part in range(len(shares))]


def _numbered(cells: Sequence[Any], codes: Tensor) -> tuple[list[int], Tensor]:
    """The groups in the order of their names, as numbers, and the number of each row's group."""
    names = [*map(str, cells), "None"]  # the last: of -1
    order = sorted(set(names if bool((codes < 0).any()) else names[:-1]))
    numbers = {name: number for number, name in enumerate(order)}
    return list(range(len(order))), torch.tensor([numbers.get(name, 0) for name in names])[codes]
