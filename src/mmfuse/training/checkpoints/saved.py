"""A checkpoint that was found whole, open for reading: tensors by part and name, whole or in pieces."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfuse._files import DTYPES, CorruptCheckpointError, read_json, read_tensors
from mmfuse.distributed import is_shared_out
from mmfuse.training.checkpoints.sharded import Box, box_of, gather_box, like

TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


class Saved:
    """The state of all parts, as files have it.

    Args:
        folder: of the checkpoint.
        files: its files by name, as the manifest has them.
    """

    def __init__(self, folder: Path, files: Mapping[str, Any]) -> None:
        self.folder = folder
        self.text = read_json(folder / "state.json")
        self._handles: dict[str, Any] = {}
        self._pieces: dict[str, dict[str, list[dict[str, Any]]]] = {}
        indices = [read_json(folder / name)["tensors"] for name in sorted(files) if name.startswith("index.")]
        for part, path, piece in ((p, q, x) for index in indices for p, y in index.items() for q, x in y.items()):
            if piece["file"] not in files or piece["dtype"] not in TYPES:
                raise self._corrupt(f"says that {path!r} of {part} is {piece['dtype']} in {piece['file']}")
            self._pieces.setdefault(part, {}).setdefault(path, []).append(piece)

    def shapes(self, part: str) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Type and shape of each tensor of a part."""
        return {path: _whole(found[0]) for path, found in self._pieces.get(part, {}).items()}

    def read(self, part: str, path: str, template: Any = None) -> Tensor:
        """One tensor; only the piece of this process, shared out as ``template`` is, if that is shared out."""
        dtype, shape = _whole(self._pieces[part][path][0])
        box: Box = box_of(template) if is_shared_out(template) else ((0,) * len(shape), shape)
        pieces = [self._piece(piece) for piece in self._pieces[part][path]]
        found = gather_box(box, dtype, pieces)
        if found is None:
            raise self._corrupt(f"lacks a piece of {path!r} of {part}")
        return like(template, found)

    def random(self, rank: int) -> dict[str, dict[str, Tensor]]:
        """The states of the random generators of a process, by name and generator; none if it was not there."""
        path = self.folder / f"random.rank{rank}.safetensors"
        states: dict[str, dict[str, Tensor]] = {}
        for name, tensor in (read_tensors(path) if path.is_file() else {}).items():
            which, _, generator = name.partition("/")
            states.setdefault(which, {})[generator] = tensor.clone()  # the file is let go
        return states

    def _piece(self, piece: Mapping[str, Any]) -> tuple[Box, Any]:
        from safetensors import SafetensorError, safe_open

        file, key = piece["file"], piece["key"]
        try:
            if file not in self._handles:
                self._handles[file] = safe_open(str(self.folder / file), framework="pt")
            handle = self._handles[file]
            slices = handle.get_slice(key)
        except (SafetensorError, OSError) as error:
            raise self._corrupt(f"cannot give a tensor of {file} ({error})") from None
        size = tuple(slices.get_shape())

        def read(where: tuple[slice, ...]) -> Tensor:
            return slices[where] if where else handle.get_tensor(key)

        return (tuple(piece.get("offset", (0,) * len(size))), size), read

    def _corrupt(self, what: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"The checkpoint {self.folder} {what}. Expected what all its processes wrote. Use another checkpoint."
        )


def _whole(piece: Mapping[str, Any]) -> tuple[torch.dtype, tuple[int, ...]]:
    """Type and shape of the tensor that a piece belongs to."""
    return TYPES[piece["dtype"]], tuple(piece["shape"])
