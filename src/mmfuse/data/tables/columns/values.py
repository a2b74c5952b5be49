"""Values of a Python program as a column."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmfuse.data.errors import DataError
from mmfuse.data.tables.columns.arrays import ArrayColumn, RaggedColumn
from mmfuse.data.tables.columns.objects import ObjectColumn
from mmfuse.data.tables.columns.packed import PackedColumn, Packer, is_missing, packable


def column_of(values: Any) -> ArrayColumn | RaggedColumn | PackedColumn | ObjectColumn:
    """The column with these cells: an array or tensor as it is, a list in the smallest form that keeps its values.

    Raises:
        ValueError: a list holds NaN or infinity beside other numbers.
    """
    if isinstance(values, Tensor):
        return ArrayColumn(values.detach().cpu())
    if isinstance(values, np.ndarray):
        # Identifiers of 64 bits become text, as those of Parquet: torch cannot count up to them.
        whole = values.dtype.kind in "biuf" and not (values.dtype == np.uint64 and (values > 2**63 - 1).any())
        return ArrayColumn(as_tensor(values), numpy=True) if whole else column_of(values.tolist())
    values = [_plain(value) for value in values]
    if all(map(packable, values)):
        packer = Packer()
        packer.add(values)
        return packer.column()
    values = [None if is_missing(value) else value for value in values]
    return _joined(values) if _of_one_kind(values) else ObjectColumn(values)


def named_column(source: str, name: str, values: Any) -> ArrayColumn | RaggedColumn | PackedColumn | ObjectColumn:
    """:func:`column_of`, with the name of the column in what goes wrong.

    Raises:
        DataError: a list holds NaN or infinity beside other numbers.
    """
    try:
        return column_of(values)
    except ValueError as error:
        raise DataError(
            f"Column {name!r} of {source} has a list with a number that is not finite ({error}). "
            "Expected finite numbers, or an array. Write None for what is not known."
        ) from None


def as_tensor(values: np.ndarray) -> Tensor:
    """The same numbers; in the same memory wherever torch can read it there."""
    if values.dtype == np.longdouble:
        values = values.astype(np.float64)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind == "u" and values.ndim == 1 and values.dtype.itemsize > 1:  # torch does little with these
        values = values.astype(np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of memory that cannot be written to, such as np.load(..., mmap_mode="r")
        return torch.from_numpy(np.ascontiguousarray(values))


def _plain(value: Any) -> Any:
    """An array without axes is a number."""
    return value.item() if isinstance(value, (np.ndarray, Tensor)) and value.ndim == 0 else value


def _of_one_kind(values: Sequence[Any]) -> bool:
    kinds = {
        (type(value), value.dtype, tuple(value.shape[1:])) if isinstance(value, (np.ndarray, Tensor)) else None
        for value in values
        if value is not None
    }
    numeric = not any(isinstance(value, np.ndarray) and value.dtype.kind not in "biuf" for value in values)
    return len(kinds) == 1 and None not in kinds and numeric


def _joined(values: Sequence[Any]) -> ArrayColumn | RaggedColumn:
    """Arrays that differ in their length at most, held as one."""
    numpy = any(isinstance(value, np.ndarray) for value in values)
    tensors = [v if v is None else as_tensor(v) if isinstance(v, np.ndarray) else v.detach().cpu() for v in values]
    real = [tensor for tensor in tensors if tensor is not None]
    if len(real) == len(tensors) and len({len(tensor) for tensor in real}) == 1:
        return ArrayColumn(torch.stack(real), numpy=numpy)
    lengths = torch.tensor([0, *(0 if tensor is None else len(tensor) for tensor in tensors)])
    known = torch.tensor([tensor is not None for tensor in tensors])
    return RaggedColumn(torch.cat(real), lengths.cumsum(0), None if bool(known.all()) else known, numpy=numpy)
