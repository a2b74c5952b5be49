"""The features of one modality: where those of each cell are, and whole batches of them from memory-mapped shards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmfuse.contracts import Input
from mmfuse.training.caching.shards import read_shard, shards_of


class FeatureStore:
    """Where the features of each key are: an index of some 40 bytes a sample.

    Args:
        folder: of one modality.
        dim: width of the features.
        dtype: of the stored numbers.
    """

    def __init__(self, folder: Path, dim: int, dtype: torch.dtype) -> None:
        paths, shards = _all_shards(folder, dim, dtype)
        self._mapped = _Mapped(paths, shards, dim, dtype)
        counts = [len(shard["lengths"]) for shard in shards]
        self.lengths = _joined([shard["lengths"].long() for shard in shards])
        self.present = _joined([shard["present"] for shard in shards]).bool()
        self.lost = _joined([shard["lost"] for shard in shards])
        self.shard = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
        self.starts = _joined([(s["lengths"].long() + 1).cumsum(0) - s["lengths"] - 1 for s in shards])
        keys = np.concatenate([np.zeros((0, 2), np.uint64), *(s["keys"].numpy().view(np.uint64) for s in shards)])
        self._order = np.argsort(keys[:, 0], kind="stable")
        self._keys = keys[self._order]

    def __len__(self) -> int:
        return len(self.lengths)

    def find(self, keys: Sequence[bytes]) -> Int[Tensor, " key"]:
        """The place of each key, -1 where it is not stored."""
        wanted = np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2)
        if not len(self) or not len(wanted):
            return torch.full((len(wanted),), -1)
        at = np.searchsorted(self._keys[:, 0], wanted[:, 0]).clip(max=len(self) - 1)
        found = (self._keys[at] == wanted).all(axis=1)
        return torch.from_numpy(np.where(found, self._order[at], -1))

    def of_rows(self, places: Int[Tensor, " row"]) -> "RowFeatures":
        """The features of the rows of a table, whose places are known; absent where the place is -1."""
        there, at = places >= 0, places.clamp_min(0)
        if not len(self):
            nothing = torch.zeros_like(places)
            return RowFeatures(self._mapped, nothing, nothing, nothing, there)
        shard, start, length = (part[at].where(there, 0) for part in (self.shard, self.starts, self.lengths))
        return RowFeatures(self._mapped, shard, start, length, there & self.present[at])


class RowFeatures:
    """The features of the rows of a table, in memory-mapped shards.

    Args:
        mapped: the shards.
        shard: in which of them the features of each row are.
        start: the first of its rows there, which is the pooled vector.
        length: how many tokens follow it.
        present: which rows have features.
    """

    def __init__(
        self,
        mapped: "_Mapped",
        shard: Int[Tensor, " row"],
        start: Int[Tensor, " row"],
        length: Int[Tensor, " row"],
        present: Bool[Tensor, " row"],
    ) -> None:
        self._mapped = mapped
        self._shard, self._start, self._length, self._present = shard, start, length, present

    def gather(self, rows: Int[Tensor, " batch"], *, tokens: bool) -> Input:
        """Some rows: (batch, dim), or (batch, 1 + time, dim) with the pooled vector in front.

        They are padded to the longest of them; what stands in the padding is the last token once more.
        """
        present, start = self._present.index_select(0, rows), self._start.index_select(0, rows)
        if not tokens:
            return Input(self._take(rows, start), present)
        length = self._length.index_select(0, rows)
        steps = torch.arange(1 + max(1, int(length.max())))
        places = start[:, None] + torch.minimum(steps, length[:, None])  # (batch, 1 + time)
        mask = (steps <= length[:, None]) & present[:, None]
        if self._mapped.real is not None:
            mask &= self._mapped.real[self._mapped.first[self._shard[rows]][:, None] + places]
        return Input(self._take(rows, places), present, mask)

    def lengths(self) -> Int[Tensor, " row"]:
        """Steps of each row as :meth:`gather` gives it with tokens; 0 where it is absent."""
        return (1 + self._length).where(self._present, 0)

    def _take(self, rows: Tensor, places: Tensor) -> Tensor:
        """Rows of the shards, as (*places, dim): in one gather for each shard that is asked."""
        values = self._mapped.values
        if len(values) == 1:
            return _rows_of(values[0], places)
        shard = self._shard.index_select(0, rows)
        numbers = shard.unique().tolist()
        if len(numbers) == 1:
            return _rows_of(values[numbers[0]], places)
        found = values[0].new_empty(*places.shape, values[0].shape[1])
        for number in numbers:
            mine = (shard == number).nonzero().flatten()
            found.index_copy_(0, mine, _rows_of(values[number], places[mine]))
        return found


class _Mapped:
    """The values of all shards, memory-mapped; and which of their rows are real, where not all are."""

    def __init__(
        self, paths: Sequence[Path], shards: Sequence[Mapping[str, Tensor]], dim: int, dtype: torch.dtype
    ) -> None:
        self._files = paths, dim, dtype
        self.values = [shard["values"] for shard in shards] or [torch.zeros(1, dim, dtype=dtype)]
        self.real: Tensor | None = None
        if any("real" in shard for shard in shards):
            self.first = torch.tensor([0, *map(len, self.values)]).cumsum(0)  # row of each shard among all
            ones = (torch.ones(len(shard["values"]), dtype=torch.bool) for shard in shards)
            self.real = torch.cat([shard.get("real", one) for shard, one in zip(shards, ones, strict=True)])

    def __reduce__(self) -> Any:
        """A worker that is not forked maps the same files again, instead of being sent what they hold."""
        return _map, self._files


def _map(paths: Sequence[Path], dim: int, dtype: torch.dtype) -> _Mapped:
    return _Mapped(paths, [read_shard(path, dim, dtype) for path in paths], dim, dtype)


def _all_shards(folder: Path, dim: int, dtype: torch.dtype) -> tuple[list[Path], list[dict[str, Tensor]]]:
    """The shards of a folder. Where a run joins them meanwhile, they are found under their new names."""
    paths = shards_of(folder)
    try:
        return paths, [read_shard(path, dim, dtype) for path in paths]
    except ValueError:
        if shards_of(folder) == paths:
            raise
    return _all_shards(folder, dim, dtype)


def _rows_of(values: Tensor, places: Tensor) -> Tensor:
    if places.dim() == 1:
        return values.index_select(0, places)
    return values.index_select(0, places.flatten()).unflatten(0, places.shape)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([*parts]) if parts else torch.zeros(0, dtype=torch.int64)
