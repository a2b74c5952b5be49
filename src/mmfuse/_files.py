"""Writing files and folders so that a reader sees all of them or nothing."""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder with ``fill``, beside its place, and rename it into place when all is on disk.

    What stood there before is removed only after that. If something fails, it stays as it was.
    """
    folder = folder.resolve()  # a link stays, and what it points to is replaced
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.parent / f".{folder.name}.{kind}-{os.getpid()}" for kind in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        fill(new)
        for path in new.rglob("*"):
            if path.is_file():
                _flush(path)
        _flush(new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors as safetensors. Those that share memory are written once each."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, str(path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What :func:`write_tensors` wrote."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path.name} in {path.parent} cannot be read: {error}. Expected a whole safetensors file. "
            "Copy the folder again, or use an older one."
        ) from None


def require_same_tensors(what: str, folder: Path, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the tensors that were read have the names and shapes of a module's own."""
    missing, foreign = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    shapes = [
        f"{name}: {tuple(given[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in given and own[name].shape != given[name].shape
    ]
    if missing or foreign or shapes:
        raise ValueError(
            f"{what} in {folder} does not fit: it lacks {missing[:5]}, has {foreign[:5]} besides, and other shapes "
            f"{shapes[:5]}. Expected the weights of this very model. Build it with the arguments it was trained with."
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path.name} in {path.parent} cannot be read: {error}. Expected a JSON object. Copy the folder again."
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}. Expected a JSON object. Copy the folder again.")
    return value


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


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the parameters of a module are."""
    return next(module.parameters()).device
