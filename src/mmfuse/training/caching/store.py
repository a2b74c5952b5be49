"""The features of one modality: where those of each cell are, and whole batches of them from memory-mapped shards."""

from collections.abc import Sequence
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
        self.dim, self.dtype = dim, dtype
        self.paths = shards_of(folder)
        shards = [read_shard(path, dim, dtype) for path in self.paths]
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
            return RowFeatures([], self.dim, self.dtype, nothing, nothing, nothing, there)
        shard, start, length = (part[at].where(there, 0) for part in (self.shard, self.starts, self.lengths))
        return RowFeatures(self.paths, self.dim, self.dtype, shard, start, length, there & self.present[at])


class RowFeatures:
    """The features of the rows of a table, in memory-mapped shards.

    Args:
        paths: the shards.
        dim: width of the features.
        dtype: of the stored numbers.
        shard: in which of them the features of each row are.
        start: the first of its rows there, which is the pooled vector.
        length: how many tokens follow it.
        present: which rows have features.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        dim: int,
        dtype: torch.dtype,
        shard: Int[Tensor, " row"],
        start: Int[Tensor, " row"],
        length: Int[Tensor, " row"],
        present: Bool[Tensor, " row"],
    ) -> None:
        self.paths, self.dim, self.dtype = paths, dim, dtype
        self._shard, self._start, self._length, self._present = shard, start, length, present
        self._map()

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
        if self._real is not None:
            mask &= self._real[self._first[self._shard[rows]][:, None] + places]
        return Input(self._take(rows, places), present, mask)

    def lengths(self) -> Int[Tensor, " row"]:
        """Steps of each row as :meth:`gather` gives it with tokens; 0 where it is absent."""
        return (1 + self._length).where(self._present, 0)

    def _take(self, rows: Tensor, places: Tensor) -> Tensor:
        """Rows of the shards, as (*places, dim): in one gather for each shard that is asked."""
        if len(self._values) == 1:
            return _rows_of(self._values[0], places)
        shard = self._shard.index_select(0, rows)
        numbers = shard.unique().tolist()
        if len(numbers) == 1:
            return _rows_of(self._values[numbers[0]], places)
        found = torch.empty(*places.shape, self.dim, dtype=self.dtype)
        for number in numbers:
            mine = (shard == number).nonzero().flatten()
            found.index_copy_(0, mine, _rows_of(self._values[number], places[mine]))
        return found

    def _map(self) -> None:
        shards = [read_shard(path, self.dim, self.dtype) for path in self.paths]
        self._values = [shard["values"] for shard in shards] or [torch.zeros(1, self.dim, dtype=self.dtype)]
        self._real = None  # which rows of all shards are real, where not all are
        if any("real" in shard for shard in shards):
            self._first = torch.tensor([0, *map(len, self._values)]).cumsum(0)
            parts = [shard.get("real", torch.ones(len(shard["values"]), dtype=torch.bool)) for shard in shards]
            self._real = torch.cat(parts)

    def __getstate__(self) -> dict[str, Any]:
        """A worker that is not forked maps the same files again, instead of being sent what they hold."""
        return {name: value for name, value in vars(self).items() if name not in ("_values", "_real", "_first")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()


def _rows_of(values: Tensor, places: Tensor) -> Tensor:
    if places.dim() == 1:
        return values.index_select(0, places)
    return values.index_select(0, places.flatten()).unflatten(0, places.shape)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([*parts]) if parts else torch.zeros(0, dtype=torch.int64)
