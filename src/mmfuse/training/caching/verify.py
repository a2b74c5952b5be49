"""Whether the shards of a cache are as they were written: their names hold the hash of what was."""

from collections.abc import Sequence
from pathlib import Path

from mmfuse._files import CorruptCheckpointError, hash_file, read_json
from mmfuse.distributed import agree, is_main, rank, world
from mmfuse.training.caching.keys import stats_of
from mmfuse.training.caching.shards import DIGITS, shards_of
from mmfuse.training.caching.whole import write_note

_NOTE = "whole.json"  # what the shards of a folder were like when they were whole


def verify_features(folder: str | Path) -> None:
    """Read every shard below a folder and compare it with its hash. Takes as long as reading the files does.

    ``cache_features`` itself does so for files that have come, or were written to, since it looked at them last.

    Raises:
        ValueError: shards are not as they were written, and the message names them; or there is none.
    """
    shards = sorted(Path(folder).rglob("shard-*.safetensors"))
    if not shards:
        raise ValueError(
            f"verify_features found no features in {folder}. Expected the folder that cache_features was given. Check "
            "the path."
        )
    _require_as_written(shards)


def verify_touched(folder: Path) -> None:
    """Compare with their hashes the shards of a modality that were written to, or copied here, since the last look.

    Several processes share the work.

    Raises:
        ValueError: shards are not as they were written, and the message names them.
    """
    known = _noted(folder)
    touched = [path for path in shards_of(folder) if known.get(path.name) != list(stats_of(path))]
    _require_as_written(touched[rank() :: world()])
    agree([0.0])  # all have looked before the note is written
    if touched:
        note_whole(folder)


def note_whole(folder: Path) -> None:
    """Write down what the shards are like, which are whole: the first process does it."""
    if is_main():
        now = {path.name: list(stats_of(path)) for path in shards_of(folder)}
        if now != _noted(folder):
            write_note(folder / _NOTE, now)


def _noted(folder: Path) -> dict[str, list[int]]:
    try:
        return read_json(folder / _NOTE)
    except CorruptCheckpointError:  # or there is none: then all are looked at
        return {}


def _require_as_written(shards: Sequence[Path]) -> None:
    bad = [path for path in shards if hash_file(path)["sha256"][:DIGITS] not in path.name]
    if bad:
        raise ValueError(
            f"{len(bad)} shards of features are not as they were written: {', '.join(map(str, bad[:5]))}. Expected "
            "the hash in their names. Delete them, and cache_features encodes again what was in them."
        )
