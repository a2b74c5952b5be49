"""Features on the disk: safetensors files of many samples each, written as a whole or not at all.

``values`` (row, dim) holds of each sample its pooled vector and then its tokens, up to the last real one; ``lengths``
how many these are, ``keys`` of what cell, ``present`` whether any token is real, ``lost`` how many steps of the cell
were cut off, and ``real``, where any token among them is not, which are.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmfuse._files import hash_tensors
from mmfuse.training.caching.keys import SIZE
from mmfuse.training.caching.whole import write_whole

BYTES = 2**28  # in a shard
SECONDS = 60.0  # after so long, what there is becomes a shard: so much work may be lost
DIGITS = 16  # of the hash that names a shard


class Stored(NamedTuple):
    """The features of one cell."""

    key: bytes
    values: Tensor  # (1 + time, dim): the pooled vector, and the tokens if they are kept
    present: bool
    real: Tensor | None = None  # (1 + time), where any token is not
    lost: int = 0


class ShardWriter:
    """Gathers samples and writes a shard when there are enough of them.

    Args:
        folder: of one modality.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples = self.bytes = 0  # that were added
        self._waiting: list[Stored] = []
        self._size = 0
        self._began = time.monotonic()

    def add(self, sample: Stored) -> None:
        size = sample.values.numel() * sample.values.element_size()
        self.samples, self.bytes, self._size = self.samples + 1, self.bytes + size, self._size + size
        self._waiting.append(sample)
        if self._size >= BYTES or time.monotonic() - self._began > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        samples, self._waiting = self._waiting, []
        self._size, self._began = 0, time.monotonic()
        if samples:
            write_shard(self.folder, as_tensors(samples))


def as_tensors(samples: Sequence[Stored]) -> dict[str, Tensor]:
    """Samples as the tensors of a shard."""
    tensors = {
        "values": torch.cat([sample.values for sample in samples]),
        "lengths": torch.tensor([len(sample.values) - 1 for sample in samples], dtype=torch.int32),
        "present": torch.tensor([sample.present for sample in samples]),
        "lost": torch.tensor([sample.lost for sample in samples], dtype=torch.int32),
        "keys": torch.frombuffer(bytearray(b"".join(s.key for s in samples)), dtype=torch.uint8).reshape(-1, SIZE),
    }
    if any(sample.real is not None for sample in samples):
        real = [torch.ones(len(s.values), dtype=torch.bool) if s.real is None else s.real for s in samples]
        tensors["real"] = torch.cat(real)
    return tensors


def write_shard(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """Write a shard. Its name holds a hash of the file, by which ``verify_features`` sees what was damaged."""
    path = folder / f"shard-{hash_tensors(tensors)['sha256'][:DIGITS]}.safetensors"
    write_whole(path, tensors)
    return path


def shards_of(folder: Path) -> list[Path]:
    """The shards of a folder, in an order that is always the same."""
    return sorted(folder.glob("shard-*.safetensors"))


def read_shard(path: Path, dim: int | None = None, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The tensors of a shard; its values, of this width and dtype, stay on the disk until they are looked at.

    Raises:
        ValueError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        _require_shapes(tensors, dim, dtype)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Expected a whole shard of features. Delete this file, and "
            "cache_features encodes again what was in it."
        ) from None
    return tensors


def _require_shapes(tensors: dict[str, Tensor], dim: int | None, dtype: torch.dtype | None) -> None:
    values, lengths, count = tensors["values"], tensors["lengths"], len(tensors["keys"])
    shapes: dict[str, Any] = {"lengths": (count,), "present": (count,), "lost": (count,), "keys": (count, SIZE)}
    shapes |= {"real": (len(values),)} if "real" in tensors else {}
    wrong = [name for name, shape in shapes.items() if tuple(tensors[name].shape) != shape]
    if values.dim() != 2 or dim not in (None, values.shape[1]) or dtype not in (None, values.dtype):
        raise ValueError(f"its values are {values.dtype} of shape {tuple(values.shape)}, not (row, {dim}) of {dtype}")
    if wrong or bool((lengths < 0).any()) or int(lengths.sum()) + count != len(values):
        raise ValueError(f"its tensors {wrong or ['values', 'lengths']} do not belong together")


def join_shards(folder: Path) -> None:
    """Make few shards of many small ones, such as an interrupted run and several processes leave behind."""
    group: list[tuple[Path, dict[str, Tensor]]] = []
    size = 0
    for path in shards_of(folder):
        if path.stat().st_size < BYTES // 2:
            group.append((path, read_shard(path)))
            size += path.stat().st_size
        if size >= BYTES:
            _join(folder, group)
            group, size = [], 0
    _join(folder, group)


def _join(folder: Path, group: list[tuple[Path, dict[str, Tensor]]]) -> None:
    if len(group) < 2:
        return
    parts = [tensors for _, tensors in group]
    if any("real" in part for part in parts):
        parts = [{"real": torch.ones(len(part["values"]), dtype=torch.bool), **part} for part in parts]
    joined = write_shard(folder, {name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    for path, _ in group:
        if path != joined:
            path.unlink()
