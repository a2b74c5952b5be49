"""Writing files and folders so that a reader sees all of them or nothing, and reading them without running any."""

import glob
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PIECE = 1 << 24  # bytes that are written and hashed while the cache of the processor still holds them
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class CorruptCheckpointError(ValueError):
    """A file of a checkpoint or a saved model is not what was written. The message names it."""


class UnsafeFileError(ValueError):
    """A file holds pickled objects, which run code when they are opened. It was not opened."""


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder with ``fill``, beside its place, and rename it into place when all is on disk.

    What stood there before is removed only after that. If something fails, it stays as it was. What a process that was
    killed here has left beside the folder goes too.
    """
    folder = folder.resolve()  # a link stays, and what it points to is replaced
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.parent / f".{folder.name}.{kind}-{os.getpid()}" for kind in ("new", "old"))
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.new-*"):
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir()
    try:
        fill(new)
        flush_folder(new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        flush(folder.parent)
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.old-*"):
            shutil.rmtree(left, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tensors as a new safetensors file, from where they are; returns its size in bytes and its sha256."""
    with path.open("xb") as file:
        return _digest(_pieces(tensors), file.write)


def hash_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Size and sha256 of the file that :func:`write_tensors` would write."""
    return _digest(_pieces(tensors))


def hash_file(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a file."""
    with path.open("rb") as file:
        return _digest(iter(lambda: file.read(PIECE), b""))


def _digest(pieces: Iterable[Any], use: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        if use is not None:
            use(piece)
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[Any]:
    """The bytes of a safetensors file. The widest numbers come first, so that all are aligned."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in names:
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        dtype = DTYPES[tensors[name].dtype]
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        whole = flat.numpy().data
        yield from (whole[i : i + PIECE] for i in range(0, len(whole), PIECE))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What :func:`write_tensors` wrote."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    refuse_pickle(path)
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CorruptCheckpointError(
            f"{path.name} in {path.parent} cannot be read: {error}. Expected a whole safetensors file. "
            "Copy the folder again, or use an older one."
        ) from None


def refuse_pickle(path: Path) -> None:
    """Raise UnsafeFileError for a file that begins as pickled objects do, whatever its name says."""
    try:
        with path.open("rb") as file:
            begin = file.read(9)
    except OSError:
        return  # who reads it says so better
    # A safetensors file may begin with the same bytes, which are a length there, and has "{" behind them.
    if begin[8:9] != b"{" and (begin[:4] == b"PK\x03\x04" or (begin[:1] == b"\x80" and 2 <= begin[1:2][0] <= 5)):
        raise UnsafeFileError(
            f"{path} is a pickle file or an archive of torch.save. Expected safetensors or JSON: mmfuse never "
            "unpickles, because that runs code of the file. Convert it where you trust it."
        )


def what_differs(path: Path, expected: Mapping[str, Any], *, hashes: bool = True) -> str | None:
    """How a file differs from the size and sha256 (if ``hashes``) that were written down; None if it does not."""
    if not path.is_file():
        return f"{path.name} in {path.parent} is not there"
    if (size := path.stat().st_size) != expected["size"]:
        return f"{path.name} in {path.parent} has {size} bytes, expected {expected['size']}"
    if hashes and (found := hash_file(path)["sha256"]) != expected["sha256"]:
        return f"{path.name} in {path.parent} has sha256 {found[:16]}, expected {expected['sha256'][:16]}"
    return None


def require_same_tensors(what: str, folder: Path, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors that were read have the names and shapes of a module's own."""
    missing, foreign = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    shapes = [
        f"{name}: {tuple(given[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in given and own[name].shape != given[name].shape
    ]
    told = {"it lacks": missing, "it has besides": foreign, "other shapes are": shapes}
    if wrong := [f"{how} {names[:5]}" for how, names in told.items() if names]:
        raise ValueError(
            f"{what} in {folder} does not fit: {', '.join(wrong)}. Expected the weights of this very model. Build it "
            "with the arguments it was trained with."
        )


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, and no part of one."""
    new = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Numbers that JSON lacks (NaN), and one key twice, are refused."""
    refuse_pickle(path)
    try:
        value = json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_once_each
        )
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"{path.name} in {path.parent} cannot be read: {error}. Expected a JSON object. Copy the folder again."
        ) from None
    if not isinstance(value, dict):
        raise CorruptCheckpointError(
            f"{path} holds a {type(value).__name__}. Expected a JSON object. Copy the folder again."
        )
    return value


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"JSON has no {text}")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError(f"a key stands twice among {[key for key, _ in pairs][:5]}")
    return found


def plain(value: Any) -> Any:
    """A value of tensors and containers as JSON knows it; NaN and infinity, which JSON lacks, as None."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def flush_folder(folder: Path) -> None:
    """Wait until all files of a folder, and the folder itself, are on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the parameters of a module are."""
    return next(module.parameters()).device
