"""How long the samples of shards are, by the sizes that the headers of their members say."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmfuse._checks import require_known_names
from mmfuse.data.loading.lengths import BucketBy
from mmfuse.data.shards.cells import first_member
from mmfuse.data.shards.index import Shard
from mmfuse.data.shards.tar import Entry, TarReader

Names = Sequence[tuple[str, ...]]  # of the columns of a modality, the names under which their members stand


def lengths_of(shards: Sequence[Shard], columns: Mapping[str, Names], by: BucketBy) -> np.ndarray:
    """A number for each sample by which samples are told to be alike: float64 (sample,).

    Args:
        shards: whose headers are read.
        columns: of each modality.
        by: a modality, weights of several, a function of the sizes in bytes of all, or the numbers themselves.

    Raises:
        ValueError: a modality is unknown, or there is not one finite number for each sample.
        DataError: a shard is damaged.
    """
    found: Any
    if isinstance(by, str | Mapping):
        weights = {by: 1.0} if isinstance(by, str) else by
        require_known_names("load_shards(bucket_by=...)", weights, columns, "modality")
        sizes = member_sizes(shards, {name: columns[name] for name in weights})
        found = sum((weight * sizes[name] for name, weight in weights.items()), np.zeros(1))
    else:
        found = by(member_sizes(shards, columns)) if callable(by) else by
    lengths = np.asarray(found, dtype=np.float64)
    samples = sum(shard.samples for shard in shards)
    if lengths.shape != (samples,) or not np.isfinite(lengths).all():
        raise ValueError(
            f"load_shards got by bucket_by lengths of shape {lengths.shape}, {int((~np.isfinite(lengths)).sum())} of "
            f"them not finite. Expected a finite number for each of {samples} samples. Name a modality, "
            "bucket_by='audio', or calculate with the arrays that a function of lengths gets."
        )
    return lengths


def member_sizes(shards: Iterable[Shard], columns: Mapping[str, Names]) -> dict[str, np.ndarray]:
    """The bytes of the members of each modality, by its name: float64 (sample,); 0 where it is absent.

    Of a modality that has no members of its own, in any sample, the member ``json`` counts, with all that it holds.
    """
    sizes: dict[str, list[int]] = {name: [] for name in columns}
    of_json: list[int] = []
    for entry in _entries(shards):
        for name, of_columns in columns.items():
            found = {kind for names in of_columns if (kind := first_member(names, entry.members)) is not None}
            sizes[name].append(sum(entry.members[kind].size for kind in found))
        of_json.append(entry.members["json"].size if "json" in entry.members else 0)
    return {name: np.array(own if any(own) else of_json, dtype=np.float64) for name, own in sizes.items()}


def _entries(shards: Iterable[Shard]) -> Iterator[Entry]:
    for shard in shards:
        shard.require_unchanged()
        reader = TarReader(shard.path)
        try:
            yield from reader.entries()
        finally:
            reader.close()
