"""The layout of version 1, which fit still writes: the whole state of a run as one folder.

``run/last`` is the newest, ``run/best`` the best by validation. Each is written beside its place and renamed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmfuse._files import plain, read_json, read_tensors, require_same_tensors, write_folder, write_tensors
from mmfuse.training.seeds import random_states, restore_random_states

VERSION = 1


def save_checkpoint(folder: Path, parts: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
    """Write the state of all parts and the random generators.

    Args:
        folder: where it will stand.
        parts: what has a ``state_dict``: modules, optimizer, schedule, scaler.
        progress: numbers and lists that say how far the run is.
    """
    states = {name: part.state_dict() for name, part in parts.items()}

    def fill(new: Path) -> None:
        settings = {}
        for name, state in states.items():
            tensors, settings[name] = _flatten(state)
            write_tensors(new / f"{name}.safetensors", tensors)
        write_tensors(new / "random.safetensors", random_states())
        text = {"version": VERSION, "progress": plain(progress), "parts": settings}
        (new / "state.json").write_text(json.dumps(text))

    write_folder(folder, fill)


def load_checkpoint(folder: Path, parts: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Put the state of all parts and the random generators back; returns the progress.

    Everything is read, and ``settings`` compared with those in the progress, before anything is changed.
    """
    state = read_json(folder / "state.json")
    if state.get("version") != VERSION:
        raise ValueError(
            f"The checkpoint {folder} has version {state.get('version')}. Expected {VERSION}. "
            "Resume with the mmfuse that wrote it."
        )
    tensors = {name: read_tensors(folder / f"{name}.safetensors") for name in [*parts, "random"]}
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            require_same_tensors(f"The {name} of the checkpoint", folder, part.state_dict(), tensors[name])
    _require_same_settings(folder, state["progress"]["settings"], plain(settings))
    for name, part in parts.items():
        flat = isinstance(part, nn.Module)  # a name of the user's may hold the mark of a nested state
        rest = state["parts"][name]
        part.load_state_dict({**rest, **tensors[name]} if flat else _unflatten(tensors[name], rest))
    restore_random_states(tensors["random"])
    return state["progress"]


def load_weights(folder: Path, model: nn.Module) -> None:
    """Put the weights of a checkpoint's model back, and nothing else."""
    tensors = read_tensors(folder / "model.safetensors")
    require_same_tensors("The model of the checkpoint", folder, model.state_dict(), tensors)
    model.load_state_dict(tensors)


def _require_same_settings(folder: Path, began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if other := [f"{name}={now[name]} for {began.get(name)}" for name in now if now[name] != began.get(name)]:
        raise ValueError(
            f"fit cannot go on with the run in {folder.parent}: it got {', '.join(other)}. Expected what the run began "
            "with, because the checkpoint holds it. Pass the same again, or begin another run in another folder."
        )


def _flatten(state: Mapping[Any, Any], prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """The tensors of a nested state by path, and the rest of it with None in their places."""
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for key, value in state.items():
        path = f"{prefix}{key}"
        if isinstance(value, Tensor):
            tensors[path] = value
        elif isinstance(value, Mapping):
            inner, rest[str(key)] = _flatten(value, f"{path}/")
            tensors |= inner
        else:
            rest[str(key)] = plain(value)
    return tensors, rest


def _unflatten(tensors: Mapping[str, Tensor], rest: dict[str, Any]) -> dict[Any, Any]:
    """The state that :func:`_flatten` took apart."""
    state: dict[Any, Any] = _with_numbers(rest)
    for path, tensor in tensors.items():
        *parents, last = path.split("/")
        inner = state
        for parent in parents:
            inner = inner.setdefault(int(parent) if parent.isdigit() else parent, {})
        inner[last] = tensor
    return state


def _with_numbers(value: Any) -> Any:
    """JSON keeps keys as text; the optimizer numbers its parameters."""
    if not isinstance(value, dict):
        return value
    return {int(key) if key.isdigit() else key: _with_numbers(item) for key, item in value.items()}
