"""The features of one modality, read by whole batches from memory-mapped shards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mmfuse.contracts import Input
from mmfuse.training.caching.shards import read_shard, shards_of


class FeatureStore:
    """Where the features of each key are. What is in memory is an index of some 40 bytes a sample.

    Args:
        folder: of one modality.
        dim: width of the features.
        dtype: of the stored numbers.
    """

    def __init__(self, folder: Path, dim: int, dtype: torch.dtype) -> None:
        self.folder, self.dim, self.dtype = folder, dim, dtype
        shards = [read_shard(path, dim, dtype) for path in shards_of(folder)]
        self._values = [shard["values"] for shard in shards]
        counts = [len(shard["lengths"]) for shard in shards]
        self._lengths = _joined([shard["lengths"].long() for shard in shards])
        self._present = _joined([shard["present"] for shard in shards]).bool()
        self.lost = _joined([shard["lost"] for shard in shards])
        self._shard = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))
        self._starts = _joined([(s["lengths"].long() + 1).cumsum(0) - s["lengths"] - 1 for s in shards])
        self._real = self._real_rows(shards)
        keys = np.concatenate([np.zeros((0, 2), np.uint64), *(s["keys"].numpy().view(np.uint64) for s in shards)])
        self._order = np.argsort(keys[:, 0], kind="stable")
        self._keys = keys[self._order]

    def __len__(self) -> int:
        return len(self._lengths)

    def find(self, keys: Sequence[bytes]) -> Int[Tensor, " key"]:
        """The place of each key, -1 where it is not stored."""
        wanted = np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2)
        if not len(self) or not len(wanted):
            return torch.full((len(wanted),), -1)
        at = np.searchsorted(self._keys[:, 0], wanted[:, 0]).clip(max=len(self) - 1)
        found = (self._keys[at] == wanted).all(axis=1)
        return torch.from_numpy(np.where(found, self._order[at], -1))

    def gather(self, places: Int[Tensor, " batch"], *, tokens: bool) -> Input:
        """Some samples, absent where the place is -1: (batch, dim), or (batch, 1 + time, dim) with the pooled first.

        They are padded to the longest of them; what stands in the padding is its sample's last token.
        """
        present = places >= 0
        if not bool(present.any()):
            return self._blank(len(places), tokens)
        at = places.clamp_min(0)
        present = present & self._present[at]
        if not tokens:
            return Input(self._rows(self._shard[at], self._starts[at]), present)
        lengths = self._lengths[at].where(present, 0)
        steps = torch.arange(1 + max(1, int(lengths.max())))
        rows = self._starts[at][:, None] + torch.minimum(steps, lengths[:, None])  # (batch, 1 + time)
        mask = (steps <= lengths[:, None]) & present[:, None]
        if self._real is not None:
            mask &= self._real[self._first_row[self._shard[at]][:, None] + rows]
        return Input(self._rows(self._shard[at], rows), present, mask)

    def _rows(self, shard: Tensor, rows: Tensor) -> Tensor:
        """Rows of shards as (*rows, dim): in one gather for each shard that is asked."""
        numbers = shard.unique().tolist() if len(self._values) > 1 else [0]
        if len(numbers) == 1:
            return self._values[numbers[0]].index_select(0, rows.flatten()).reshape(*rows.shape, self.dim)
        found = torch.empty(*rows.shape, self.dim, dtype=self.dtype)
        for number in numbers:
            mine = (shard == number).nonzero().flatten()
            some = self._values[number].index_select(0, rows[mine].flatten())
            found.index_copy_(0, mine, some.reshape(len(mine), *rows.shape[1:], self.dim))
        return found

    def _blank(self, batch: int, tokens: bool) -> Input:
        present = torch.zeros(batch, dtype=torch.bool)
        if not tokens:
            return Input(torch.zeros(batch, self.dim, dtype=self.dtype), present)
        return Input(torch.zeros(batch, 2, self.dim, dtype=self.dtype), present, torch.zeros(batch, 2).bool())

    def _real_rows(self, shards: Sequence[dict[str, Tensor]]) -> Tensor | None:
        """Which rows of all shards are real; None where all are, as of most encoders."""
        self._first_row = torch.tensor([0, *(len(values) for values in self._values)]).cumsum(0)
        if not any("real" in shard for shard in shards):
            return None
        parts = [shard.get("real", torch.ones(len(shard["values"]), dtype=torch.bool)) for shard in shards]
        return torch.cat(parts)

    def __getstate__(self) -> dict[str, Any]:
        """A worker that is not forked maps the files again, instead of being sent their content."""
        return {"folder": self.folder, "dim": self.dim, "dtype": self.dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([*parts]) if parts else torch.zeros(0, dtype=torch.int64)
