"""The state of a checkpoint -> a model, its optimizer and all the rest; everything is checked before one is changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmfuse._files import require_same_tensors
from mmfuse.distributed import is_shared_out
from mmfuse.training.checkpoints.saved import Saved
from mmfuse.training.checkpoints.snapshot import shapes_of
from mmfuse.training.checkpoints.state_tree import put_together, take_apart


def read_states(saved: Saved, parts: Mapping[str, Any]) -> dict[str, Any]:
    """The state of each part as its ``load_state_dict`` takes it, shared out as the part is now.

    Raises:
        ValueError: a part is missing, or its tensors have other names, shapes or types than those of the checkpoint.
    """
    return {name: _read_state(saved, name, part) for name, part in parts.items()}


def put_back(parts: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Give each part its state; if one does not take it, all are as they were before."""
    before = {name: _copy(part.state_dict(), name) for name, part in parts.items()}
    changed = []
    try:
        for name, part in parts.items():
            changed.append(name)
            part.load_state_dict(states[name])
    except Exception:
        for name in changed:
            parts[name].load_state_dict(before[name])
        raise


def require_same_settings(folder: Path, began: Any, now: Mapping[str, Any]) -> None:
    """Raise ValueError unless a run goes on with the settings that it began with."""
    now = put_together(take_apart(dict(now), "settings")[1], {})
    began = began if isinstance(began, dict) else {}
    if began:  # a checkpoint from before there was such a setting says nothing of it
        now = {name: value for name, value in now.items() if name in began or name != "fp16"}
    if other := [f"{name}={now[name]} for {began.get(name)}" for name in now if now[name] != began.get(name)]:
        raise ValueError(
            f"fit cannot go on with the run in {folder}: it got {', '.join(other)}. Expected what the run began "
            "with, because the checkpoint holds it (trained: how many parameters learn). "
            "Pass the same again, or begin another run in another folder."
        )


def _read_state(saved: Saved, name: str, part: Any) -> Any:
    if name not in saved.text["parts"]:
        raise ValueError(
            f"The checkpoint {saved.folder} has no state of {name!r}, only of {sorted(saved.text['parts'])}. Expected "
            "the parts that the run began with. Begin another run in another folder."
        )
    own, _ = take_apart(part.state_dict(), name)
    given = saved.shapes(name)
    if isinstance(part, Optimizer):
        _require_same_parameters(saved, name, part)
        own |= _like_parameters(part, given)
    _require_same(saved, name, own, given, every=isinstance(part, nn.Module))
    tensors = {path: saved.read(name, path, own.get(path)) for path in given}
    return put_together(saved.text["parts"][name], tensors)


def _require_same(saved: Saved, name: str, own: Mapping[str, Tensor], given: Mapping[str, Any], *, every: bool) -> None:
    """Raise ValueError unless names (if ``every``), shapes and types agree."""
    what = f"The {name} of the checkpoint"
    there = {path: torch.empty(shape, dtype=dtype, device="meta") for path, (dtype, shape) in given.items()}
    known = own if every else {path: own[path] for path in own if path in given}
    require_same_tensors(what, saved.folder, known, there if every else {path: there[path] for path in known})
    if others := [f"{p}: {there[p].dtype} for {x.dtype}" for p, x in known.items() if there[p].dtype != x.dtype]:
        raise ValueError(
            f"{what} in {saved.folder} has other types {others[:5]}. Expected those of this model, so that no number "
            "is rounded. Convert the model to the types it was trained in."
        )


def _require_same_parameters(saved: Saved, name: str, optimizer: Optimizer) -> None:
    began, now = saved.text["shapes"][name], shapes_of(optimizer)
    if began != now:
        groups = [f"{len(group)} parameters" for group in began], [f"{len(group)} parameters" for group in now]
        raise ValueError(
            f"The {name} of the checkpoint in {saved.folder} is for groups of {groups[0]}, and this one has "
            f"{groups[1]}, or parameters of other shapes. Expected those of this very run. Freeze and group the "
            "parameters as it did."
        )


def _like_parameters(optimizer: Optimizer, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """For each state tensor of a parameter that is shared out: the parameter, if the tensor has its shape."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    templates = {}
    for path, (dtype, shape) in given.items():
        kind, _, rest = path.partition("/")
        number = rest.partition("/")[0]
        if kind != "state" or not number.isdigit():
            continue
        parameter = parameters[int(number)]
        if is_shared_out(parameter) and shape == tuple(parameter.shape) and dtype == parameter.dtype:
            templates[path] = parameter.detach()
    return templates


def _copy(state: Any, owner: str) -> Any:
    tensors, rest = take_apart(state, owner)
    return put_together(rest, {path: tensor.detach().clone() for path, tensor in tensors.items()})
