"""Cells of text, lists and bytes, one after the other in one array of bytes."""

import json
import math
from collections.abc import Sequence
from datetime import date, time, timedelta
from functools import cached_property
from numbers import Number
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
import torch
from torch import Tensor

EMPTY, TEXT, JSON, BYTES = range(4)
WRITTEN = (str, Number, np.generic, date, time, timedelta, PurePath, UUID)  # what is kept as its text
_SIMPLE = {str, int, float, bool, type(None)}
_AT_ONCE = 65_536  # rows; so that few Python objects exist at a time


class PackedColumn:
    """Text, lists of text or numbers, and bytes.

    Args:
        data: the cells' bytes (UTF-8) one after the other.
        bounds: (rows + 1); cell ``i`` is ``data[bounds[i]:bounds[i + 1]]``.
        kinds: one byte a cell: ``EMPTY``, ``TEXT``, ``JSON`` or ``BYTES``.
    """

    def __init__(self, data: Tensor, bounds: Tensor, kinds: Tensor) -> None:
        self.data = data
        self.bounds = bounds
        self.kinds = kinds

    def __len__(self) -> int:
        return len(self.kinds)

    def cell(self, row: int) -> Any:
        data, bounds, kinds = self._views
        return _read(kinds[row], data[bounds[row] : bounds[row + 1]])

    def cells(self, rows: Tensor) -> list[Any]:
        view, _, _ = self._views
        found: list[Any] = []
        for some in rows.split(_AT_ONCE):
            for kind, start, end in self._places(some):
                found.append(
                    str(view[start:end], "utf-8", "surrogatepass") if kind == TEXT else _read(kind, view[start:end])
                )
        return found

    def distinct(self, rows: Tensor) -> tuple[list[Any], Tensor]:
        view, _, _ = self._views
        numbers: dict[tuple[int, bytes] | bytes, int] = {}
        codes = []
        for some in rows.split(_AT_ONCE):
            for kind, start, end in self._places(some):
                if kind == EMPTY:
                    codes.append(-1)
                    continue
                key = bytes(view[start:end]) if kind == TEXT else (kind, bytes(view[start:end]))
                codes.append(numbers.setdefault(key, len(numbers)))
        keys = ((TEXT, key) if isinstance(key, bytes) else key for key in numbers)
        return [_read(kind, memoryview(key)) for kind, key in keys], torch.tensor(codes, dtype=torch.int64)

    def array(self) -> None:
        return None

    @cached_property
    def _views(self) -> tuple[memoryview, memoryview, memoryview]:
        """The same memory, quicker to read a single cell from."""
        return self.data.numpy().data, self.bounds.numpy().data, self.kinds.numpy().data

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_views"}

    def _places(self, rows: Tensor) -> Any:
        places = self.kinds[rows].tolist(), self.bounds[rows].tolist(), self.bounds[rows + 1].tolist()
        return zip(*places, strict=True)


def _read(kind: int, data: memoryview) -> Any:
    if kind == EMPTY:
        return None
    if kind == TEXT:
        return str(data, "utf-8", "surrogatepass")
    return bytes(data) if kind == BYTES else json.loads(bytes(data))


class Packer:
    """Makes a :class:`PackedColumn` from pieces of it, top to bottom."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.lengths: list[np.ndarray] = []
        self.kinds: list[np.ndarray] = []

    def add(self, values: Sequence[Any]) -> None:
        """Values of some rows.

        Raises:
            ValueError: a list holds what JSON cannot hold.
        """
        if set(map(type, values)) <= _SIMPLE:
            return self.add_text([v if type(v) is str else "" if is_missing(v) else str(v) for v in values])
        pairs = [_pack(value) for value in values]
        kinds = np.fromiter((kind for kind, _ in pairs), np.uint8, len(values))
        encoded = [data for _, data in pairs]
        return self.add_packed(b"".join(encoded), np.fromiter(map(len, encoded), np.int64, len(encoded)), kinds)

    def add_text(self, texts: Sequence[str]) -> None:
        """Text of some rows."""
        joined = "".join(texts)
        data = joined.encode("utf-8", "surrogatepass")
        letters = texts if len(data) == len(joined) else [text.encode("utf-8", "surrogatepass") for text in texts]
        lengths = np.fromiter(map(len, letters), np.int64, len(texts))
        blank = np.fromiter(map(str.isspace, texts), np.bool_, len(texts)) | (lengths == 0)
        self.add_packed(data, lengths, np.where(blank, EMPTY, TEXT).astype(np.uint8))

    def add_packed(self, data: Any, lengths: np.ndarray, kinds: np.ndarray) -> None:
        """The bytes of some rows, one after the other."""
        self.data += data
        self.lengths.append(lengths)
        self.kinds.append(kinds)

    def skip(self, rows: int) -> None:
        """Some rows with empty cells."""
        self.add_packed(b"", np.zeros(rows, np.int64), np.zeros(rows, np.uint8))

    def column(self) -> PackedColumn:
        """What was added so far."""
        lengths = np.concatenate([np.zeros(1, np.int64), *self.lengths])
        kinds = np.concatenate([np.zeros(0, np.uint8), *self.kinds])
        data = torch.frombuffer(self.data, dtype=torch.uint8) if self.data else torch.zeros(0, dtype=torch.uint8)
        return PackedColumn(data, torch.from_numpy(lengths.cumsum()), torch.from_numpy(kinds))


def packable(value: Any) -> bool:
    """Whether a value can be a cell of a :class:`PackedColumn`."""
    if isinstance(value, (list, tuple)):
        return all(packable(item) and not isinstance(item, bytes) for item in value)
    if isinstance(value, dict):
        return packable(list(value.values()))
    return value is None or isinstance(value, (bytes, *WRITTEN)) or is_missing(value)


def is_missing(value: Any) -> bool:
    """None, NaN, and what pandas has for them."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or _is_nan(value)


def _is_nan(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) and math.isnan(value)


def _pack(value: Any) -> tuple[int, bytes]:
    if is_missing(value):
        return EMPTY, b""
    if isinstance(value, (list, tuple, dict)):
        return JSON, json.dumps(value, allow_nan=False, ensure_ascii=False, default=_plain).encode(
            "utf-8", "surrogatepass"
        )
    if isinstance(value, bytes):
        return BYTES, value
    text = str(value)
    return (TEXT, text.encode("utf-8", "surrogatepass")) if text.strip() else (EMPTY, b"")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
