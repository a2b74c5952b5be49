"""Which shards there are, and how many samples each has."""

import glob
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmfuse._checks import nearest
from mmfuse._files import read_json, replace_text
from mmfuse.data.errors import DataError
from mmfuse.data.loading.report import shown
from mmfuse.data.shards.cells import json_names
from mmfuse.data.shards.tar import TarReader

INDEX = "index.json"
KIND = "mmfuse-shards-1"  # an index.json of other libraries is not ours to read
PEEKED = 64  # samples of each shard in whose JSON names of columns are looked for
MOST_SHARDS = 1_000_000
MOST_JSON_BYTES = 1 << 24
MOST_INDEX_BYTES = 1 << 28


@dataclass(frozen=True)
class Shard:
    """One tar: where it is, how many samples it has, and under which names."""

    path: Path
    samples: int
    bytes: int
    columns: tuple[str, ...]  # extensions of members, and the names in the JSON of its first samples
    passed_over: int = 0  # members without key or extension
    crc32: int | None = None  # of the whole file; None if nobody has read it

    def require_unchanged(self) -> None:
        """Raise DataError unless the file has the size that it had when it was counted."""
        try:
            now = self.path.stat().st_size
        except OSError:
            now = -1
        if now != self.bytes:
            raise DataError(
                f"The shard {self.path.name} has {max(now, 0)} bytes. Expected {self.bytes}, as when its samples were "
                f"counted. Copy it again; if it was written anew, call index_shards({str(self.path.parent)!r})."
            )


def find_shards(shards: str | Path | Sequence[str | Path]) -> list[Path]:
    """The paths of a folder, a pattern (``data/train-*.tar``, ``train-{000000..000099}.tar``) or a list of them.

    Raises:
        DataError: there is none, one is an address, or one comes twice.
    """
    if not isinstance(shards, str | Path | Sequence):
        raise TypeError(
            f"load_shards got a {type(shards).__name__}. Expected shards: a folder, a pattern or a list of paths. "
            "For a table, use load_batches."
        )
    given = [shards] if isinstance(shards, str | Path) else list(shards)
    paths = [path for one in given for path in _expand(str(one))]
    if not paths:
        raise DataError("load_shards got no shard. Expected one or more. Give a folder, a pattern or a list of paths.")
    times = Counter(os.path.realpath(path) for path in paths)
    if twice := [name for name, count in times.items() if count > 1]:
        raise DataError(f"Shards come twice: {shown(twice[:5], len(twice))}. Expected each once. Take one out.")
    return paths


def read_shards(paths: Iterable[Path]) -> list[Shard]:
    """What the ``index.json`` beside each shard says of it; what no index knows is counted, by its headers."""
    indexes: dict[Path, dict[str, Shard]] = {}
    found = []
    for path in paths:
        if path.parent not in indexes:
            indexes[path.parent] = _read_index(path.parent)
        known = indexes[path.parent].get(path.name)
        if known is None:
            state = _stat(path)
            known = _count_once(path, state.st_size, state.st_mtime_ns)
        known.require_unchanged()
        found.append(known)
    return found


def index_shards(folder: str | Path) -> list[Shard]:
    """Count the shards of a folder and write ``index.json`` beside them, so that no run has to count them again.

    Reads every byte once. Returns what it has counted.
    """
    found = [replace(count_shard(path), crc32=checksum(path)) for path in find_shards(folder)]
    write_index(Path(folder), found)
    return found


def verify_shards(folder: str | Path) -> None:
    """Raise DataError unless every shard of a folder is bit for bit what its ``index.json`` says. Reads every byte."""
    for shard in read_shards(find_shards(folder)):
        if shard.crc32 is None:
            raise DataError(f"{INDEX} does not list {shard.path.name}. Expected all shards. Call index_shards first.")
        if checksum(shard.path) != shard.crc32:
            raise DataError(
                f"The shard {shard.path.name} is not what was written: its CRC-32 is another one than in {INDEX}. "
                "Expected the same bytes. Copy it again."
            )


def write_index(folder: Path, shards: Iterable[Shard]) -> None:
    """Write ``index.json``, whole or not at all."""
    rows = [
        {"name": s.path.name, "samples": s.samples, "bytes": s.bytes, "crc32": s.crc32, "columns": list(s.columns)}
        for s in shards
    ]
    replace_text(folder / INDEX, json.dumps({"kind": KIND, "shards": rows}))


def count_shard(path: Path) -> Shard:
    """Count the samples of a shard by its headers, and check all of them."""
    columns: dict[str, None] = {}
    samples = 0
    reader = TarReader(path)
    try:
        for entry in reader.entries():
            samples += 1
            if len(columns) < 1000:
                columns |= dict.fromkeys(entry.members)
            if samples <= PEEKED and "json" in entry.members and entry.members["json"].size <= MOST_JSON_BYTES:
                columns |= dict.fromkeys(json_names(reader.read(entry.members["json"], MOST_JSON_BYTES)))
    finally:
        reader.close()
    return Shard(path, samples, _stat(path).st_size, tuple(columns), reader.passed_over)


def checksum(path: Path) -> int:
    """The CRC-32 of a file."""
    total = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total = zlib.crc32(piece, total)
    return total


@lru_cache(maxsize=100_000)
def _count_once(path: Path, size: int, time: int) -> Shard:  # noqa: ARG001  a file with another size or time is another
    return count_shard(path)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(
            f"The shard {path} cannot be read: {error.strerror}. Expected a tar file. Check the path."
        ) from None


def _expand(pattern: str) -> list[Path]:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", pattern) or pattern.startswith("pipe:"):
        raise DataError(
            f"{pattern[:80]!r} is an address or a command. Expected shards on this machine. Download them first, for "
            "example with urllib.request.urlretrieve(address, file), and give the folder."
        )
    path = Path(pattern)
    if path.is_dir():
        return _in_folder(path)
    paths = [Path(name) for one in _braces(pattern) for name in (sorted(glob.glob(one)) if _has_magic(one) else [one])]
    if missing := [path for path in paths if not path.is_file()] or ([path] if not paths else []):
        near = nearest(missing[0].name, os.listdir(missing[0].parent)) if missing[0].parent.is_dir() else ""
        raise DataError(f"No shard is named {str(missing[0])!r}. Expected a tar file.{near} Check the path.")
    return paths


def _in_folder(folder: Path) -> list[Path]:
    if found := sorted(folder.glob("*.tar")):
        return found
    others = sorted(path.name for path in folder.iterdir())[:6]
    raise DataError(
        f"The folder {folder} has no file that ends in .tar. Expected shards. It has {shown(others[:5], len(others))}. "
        "Unpack .tar.gz files with gunzip, or name a pattern."
    )


def _has_magic(pattern: str) -> bool:
    return glob.has_magic(pattern) and not Path(pattern).is_file()


def _braces(pattern: str) -> list[str]:
    """``a-{00..11}.tar`` as WebDataset writes it: twelve names."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    if int(last) - int(first) >= MOST_SHARDS:
        raise DataError(f"{pattern!r} names over {MOST_SHARDS} shards. Expected fewer. Name them by a folder.")
    names = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
    return [whole for name in names for whole in _braces(pattern[: match.start()] + name + pattern[match.end() :])]


def _read_index(folder: Path) -> dict[str, Shard]:
    if not (folder / INDEX).is_file():
        return {}
    try:
        if (folder / INDEX).stat().st_size > MOST_INDEX_BYTES:
            raise ValueError(f"over {MOST_INDEX_BYTES} bytes")
        content = read_json(folder / INDEX)
        if content.get("kind") != KIND:
            return {}
        return {row["name"]: _shard(folder, row) for row in content["shards"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{INDEX} in {folder} does not say how many samples the shards have ({error!r}). Expected what "
            f"index_shards writes. Delete it, or call index_shards({str(folder)!r})."
        ) from None


def _shard(folder: Path, row: dict[str, Any]) -> Shard:
    numbers = [row["samples"], row["bytes"], row["crc32"]]
    if not all(type(number) is int and 0 <= number < 2**53 for number in numbers):
        raise ValueError(f"{row['name']}: {numbers}")
    return Shard(folder / row["name"], numbers[0], numbers[1], tuple(map(str, row["columns"])), crc32=numbers[2])
