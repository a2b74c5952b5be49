"""The state of a run at one step, copied to the host: what a thread writes while training goes on.

Frozen parameters are copied and written once. Later checkpoints refer to that file as long as their checksums, taken
where they are, stay the same; one that moves without a gradient (a momentum encoder) is copied each time from then on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from mmfuse.distributed import is_shared_out, local_part
from mmfuse.training.checkpoints.host_copy import HostCopy, checksums
from mmfuse.training.checkpoints.sharded import box_of, writes
from mmfuse.training.checkpoints.state_tree import take_apart

Piece = dict[str, Any]  # file and key of a tensor, its type, the shape of the whole and where the piece begins


@dataclass
class Snapshot:
    """What one process writes of a checkpoint."""

    text: dict[str, Any]  # for state.json
    files: dict[str, dict[str, Tensor]]  # tensors on the host by file and key
    index: dict[str, dict[str, Piece]] = field(default_factory=dict)  # by part and path
    frozen: dict[str, Tensor] = field(default_factory=dict)  # those that no file holds yet, by key
    shared: dict[str, dict[str, Any]] = field(default_factory=dict)  # files of frozen ones: size and sha256
    written: bool = False

    @property
    def size(self) -> int:
        """Bytes on the disk, with some to spare for names and blocks."""
        tensors = [tensor for file in [*self.files.values(), self.frozen] for tensor in file.values()]
        return sum(tensor.numel() * tensor.element_size() + 400 for tensor in tensors) + 4096 * (len(self.files) + 4)

    def settle(self, file: str, entry: dict[str, Any]) -> None:
        """Say which file the frozen tensors went to."""
        self.shared[file] = entry
        self.frozen = {}
        for pieces in self.index.values():
            for piece in pieces.values():
                piece["file"] = piece["file"] or file


class Snapshots:
    """Takes snapshots, and remembers which frozen parameters are on the disk already.

    Args:
        rank: of this process. The first one writes what all have alike; each writes its pieces of what is shared out.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._copy = HostCopy()
        self._checksums: dict[str, tuple[int, ...]] = {}  # of what is frozen
        self._moving: set[str] = set()
        self._last: Snapshot | None = None

    def take(self, parts: Mapping[str, Any], random: Mapping[str, Mapping[str, Tensor]]) -> Snapshot:
        """Copy all that this process writes. The copies of the call before are overwritten."""
        states = {f"{which}/{name}": state for which, states in random.items() for name, state in states.items()}
        snapshot = Snapshot({"parts": {}, "shapes": {}}, {f"random.rank{self._rank}.safetensors": states})
        live: dict[tuple[str, str], Tensor] = {}  # by file and key
        checked: dict[str, tuple[int, ...]] = {}
        for name, part in parts.items():
            _require_name(name)
            tensors, snapshot.text["parts"][name] = take_apart(part.state_dict(), name)
            if isinstance(part, Optimizer):
                snapshot.text["shapes"][name] = shapes_of(part)
            own = {path: tensor for path, tensor in tensors.items() if writes(tensor, self._rank)}
            local = {path: local_part(tensor) for path, tensor in own.items()}
            frozen = self._frozen(name, part, local, checked)
            snapshot.index[name] = {}
            for path, first in _first_names(local).items():
                if first in frozen:
                    place = self._place_frozen(snapshot, name, first, local[first])
                else:
                    place = {"file": self._file(name, own[path]), "key": first}
                    live[place["file"], first] = local[first]
                snapshot.index[name][path] = place | _describe(own[path])
        self._checksums = checked
        for (file, key), copy in self._copy(live).items():
            snapshot.files.setdefault(file, {})[key] = copy
        self._last = snapshot
        return snapshot

    def _file(self, name: str, tensor: Tensor) -> str:
        return f"{name}.rank{self._rank}.safetensors" if is_shared_out(tensor) else f"{name}.safetensors"

    def _frozen(
        self, name: str, part: Any, local: Mapping[str, Tensor], checked: dict[str, tuple[int, ...]]
    ) -> set[str]:
        """The paths of parameters that are frozen and have not moved; adds their checksums to ``checked``."""
        if not isinstance(part, nn.Module):
            return set()
        frozen = {path for path, x in part.named_parameters(remove_duplicate=False) if not x.requires_grad}
        paths = {f"{name}/{path}": path for path in local if path in frozen and f"{name}/{path}" not in self._moving}
        sums = checksums({key: local[path] for key, path in paths.items()})
        self._moving |= {key for key in sums if self._checksums.get(key, sums[key]) != sums[key]}
        checked |= sums
        return {path for key, path in paths.items() if key not in self._moving}

    def _place_frozen(self, snapshot: Snapshot, name: str, path: str, tensor: Tensor) -> Piece:
        """Where a frozen tensor stands already, or no file yet; then a copy waits for one."""
        last = self._last if self._last is not None and self._last.written else None
        known = last.index.get(name, {}).get(path) if last is not None else None
        if last is not None and known is not None and known["file"] in last.shared:
            snapshot.shared[known["file"]] = last.shared[known["file"]]
            return {"file": known["file"], "key": known["key"]}
        key = f"{name}/{path}"
        if key not in snapshot.frozen:
            snapshot.frozen[key] = tensor.cpu().clone()
        return {"file": None, "key": key}


def shapes_of(optimizer: Optimizer) -> list[list[list[int]]]:
    """The shapes of an optimizer's parameters, by group."""
    return [[list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]


def _describe(tensor: Tensor) -> Piece:
    piece: Piece = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    return piece | ({"offset": list(box_of(tensor)[0])} if is_shared_out(tensor) else {})


def _first_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The first name of each tensor: one that has several, as tied weights do, is written once."""
    first: dict[Any, str] = {}
    names = {}
    for path, tensor in tensors.items():
        memory = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else path
        names[path] = first.setdefault(memory, path)
    return names


def _require_name(name: str) -> None:
    if not name.isidentifier() or name == "random":
        raise ValueError(
            f"A part of a checkpoint cannot be named {name!r}. Expected letters, digits and underscores: it names a "
            "file. Write 'model' for example."
        )
