"""Samples of shards in their order: skipped by their headers, or read into memory as they are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from mmfuse.data.errors import DataError
from mmfuse.data.shards.cells import Encoded, needed
from mmfuse.data.shards.index import Shard
from mmfuse.data.shards.tar import Entry, TarReader


class Stream:
    """Reads samples in passes, and goes on in the middle of a shard where it was.

    No file stays open between two passes: only the place that the next one comes to is kept.

    Args:
        shards: all shards.
        names: under which names the members of each column stand; no others are read.
        max_bytes: a larger member is an error of its column.
    """

    def __init__(self, shards: Sequence[Shard], names: Mapping[str, tuple[str, ...]], max_bytes: int) -> None:
        self._shards = shards
        self._names = names
        self._max_bytes = max_bytes
        self._known = (0, 0, 0)  # a shard, a place in it, and the byte where that sample begins

    def read(self, wanted: Iterable[tuple[int, int]]) -> Iterator[Encoded]:
        """Samples by shard and place; each run of them that goes forward in one shard is one pass.

        Raises:
            DataError: a shard is damaged, or has another number of samples than was counted.
        """
        for shard, places in _passes(wanted):
            known_shard, at, offset = self._known
            if known_shard != shard or at > places[0]:
                at = offset = 0
            self._shards[shard].require_unchanged()
            tar = TarReader(self._shards[shard].path, offset)
            try:
                yield from self._read_places(shard, tar, at, places)
            finally:
                tar.close()

    def _read_places(self, shard: int, tar: TarReader, at: int, places: Sequence[int]) -> Iterator[Encoded]:
        entries = tar.entries()
        for place in places:
            entry = next(islice(entries, place - at, None), None)
            if entry is None:
                raise self._miscounted(shard, "fewer")
            yield self._read(tar, entry)
            at = place + 1
        following = next(entries, None)
        if (following is None) != (at == self._shards[shard].samples):
            raise self._miscounted(shard, "more" if following else "fewer")
        self._known = (shard, at, following.offset) if following else (0, 0, 0)

    def _read(self, tar: TarReader, entry: Entry) -> Encoded:
        wanted = sorted({kind for names in self._names.values() for kind in needed(names, entry.members)})
        members: dict[str, bytes | ValueError] = {}
        for kind in wanted:
            try:
                members[kind] = tar.read(entry.members[kind], self._max_bytes)
            except DataError:
                raise
            except ValueError as error:  # too large: an error of this column only
                members[kind] = error
        return Encoded(tar.path.name, entry.key, members)

    def _miscounted(self, shard: int, how: str) -> DataError:
        known = self._shards[shard]
        return DataError(
            f"The shard {known.path.name} has {how} samples than the {known.samples} that were counted. Expected as "
            f"many. Do not change shards while they are read, and call index_shards({str(known.path.parent)!r}) after."
        )


def _passes(wanted: Iterable[tuple[int, int]]) -> list[tuple[int, list[int]]]:
    passes: list[tuple[int, list[int]]] = []
    for shard, place in wanted:
        if not passes or passes[-1][0] != shard or passes[-1][1][-1] >= place:
            passes.append((shard, []))
        passes[-1][1].append(place)
    return passes
