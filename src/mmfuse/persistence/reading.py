"""The folder of a saved model -> the model."""

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfuse._checks import nearest, require_kind, require_switches, usable_device
from mmfuse._files import CorruptCheckpointError, read_json, read_tensors, require_same_tensors
from mmfuse.model import MultimodalModel
from mmfuse.persistence.budget import at_most
from mmfuse.persistence.describing import CLASS, TOKENIZER
from mmfuse.persistence.manifest import NAME, first_difference, read_manifest
from mmfuse.persistence.writing import VERSION

FILE = re.compile(r"config\.json|model\.safetensors|tokenizers/[\w-]+/[\w-][\w.-]*")


def load(
    folder: str | Path,
    *,
    classes: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    verify: bool = True,
) -> MultimodalModel:
    """Build a saved model, in evaluation mode, from the folder alone.

    Args:
        folder: what :func:`save` wrote.
        classes: your own classes by name, for a model that has some: ``{"MyFusion": MyFusion}``. Names are looked up
            here and among mmfuse's classes, and nowhere else.
        device: where the model goes.
        verify: compare all files with the sha256 that was saved, and look for NaN in the weights. Pass False for a
            config.json that you edited, and where a very large model must be there sooner.

    Raises:
        CorruptCheckpointError: a file is damaged or missing.
        UnsafeFileError: a file holds pickled objects.
        ValueError: the folder is not a saved model, or names a class that is not known.
    """
    require_kind("load", "folder", folder, (str, PathLike), "a path. Write load('model')")
    require_switches("load", verify=verify)
    if classes is not None:
        require_kind("load", "classes", classes, Mapping, "classes by name. Give classes={'MyFusion': MyFusion}")
    usable_device("load", device, "Expected 'cpu', 'cuda' or 'cuda:1'. Leave it out for the CPU.")
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Expected one that mmfuse.save has written. Check the path.")
    if (folder / "run.json").is_file() or (folder / "state.json").is_file():
        raise ValueError(
            f"{folder} is the folder of a run or of a checkpoint, from which fit goes on. Expected one that "
            "mmfuse.save has written. Run fit again with resume=True, which leaves the model with its best weights, "
            "and save it."
        )
    config = _read_config(folder, verify)
    tensors = read_tensors(folder / "model.safetensors")
    with torch.random.fork_rng(devices=[]), at_most(tensors):  # the first weights are random, and replaced at once
        model = _build(config.get("model"), folder, {**_own_classes(), **(classes or {})})
    if not isinstance(model, MultimodalModel):
        raise ValueError(
            f"{folder} describes a {type(model).__name__}. Expected a MultimodalModel. Use another folder."
        )
    require_same_tensors("The saved model", folder, model.state_dict(), tensors)
    if verify:
        _require_numbers(folder, tensors)
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:  # a model in another precision than that of its constructor
        model.to(dtypes.pop())
    model.load_state_dict(tensors)
    for encoder in model.encoders.values():
        # Its weights are trained: further training takes the smaller learning rate.
        setattr(encoder, "pretrained", True)  # noqa: B010  a plain assignment is unsound to a type checker
    return model.to(device).eval()


def _read_config(folder: Path, verify: bool) -> dict[str, Any]:
    signed = (folder / NAME).exists()
    if verify and signed:
        problem = first_difference(folder, read_manifest(folder, allowed=FILE, version=VERSION))
        if problem is not None:
            raise CorruptCheckpointError(
                f"{problem}. Expected the file as it was saved. Copy the folder again; if you changed it yourself, "
                "pass verify=False."
            )
    config = read_json(folder / "config.json")
    if config.get("format") != "mmfuse" or config.get("version") not in range(1, VERSION + 1):
        raise ValueError(
            f"{folder} has format {config.get('format')!r}, version {config.get('version')!r}. Expected a model saved "
            f"by mmfuse with version {VERSION} at most. Update mmfuse, or choose another folder."
        )
    if verify and not signed and config["version"] > 1:
        raise CorruptCheckpointError(f"{NAME} in {folder} is not there. Expected it. Copy the folder again.")
    return config


def _require_numbers(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    if spoiled := [name for name, x in tensors.items() if x.is_floating_point() and x.isnan().any()]:
        raise ValueError(
            f"The saved model in {folder} has NaN in {spoiled[:5]}. Expected numbers: all that it predicts would be "
            "NaN. Use another model, or pass verify=False to look into this one."
        )


def _own_classes() -> dict[str, Any]:
    """Everything that a config may name without being told."""
    from mmfuse.encoders import ENCODERS
    from mmfuse.fusion import FUSIONS
    from mmfuse.fusion.nested import Nested
    from mmfuse.missing import MISSING
    from mmfuse.tasks import TASKS

    return {**ENCODERS, **FUSIONS, **MISSING, **TASKS, "Nested": Nested, "MultimodalModel": MultimodalModel}


def _build(value: Any, folder: Path, classes: Mapping[str, Any]) -> Any:
    """What :func:`_describe` described."""
    if isinstance(value, list):
        return [_build(item, folder, classes) for item in value]
    if not isinstance(value, dict):
        return value
    if TOKENIZER in value:
        return _read_tokenizer(folder, value[TOKENIZER])
    if CLASS not in value:
        return {key: _build(item, folder, classes) for key, item in value.items()}
    name = value[CLASS]
    if name not in classes:
        raise ValueError(
            f"{folder} asks for a class {name!r} that is not known. Expected one of mmfuse's, or one that you give."
            f"{nearest(str(name), classes)} If it is yours: load(folder, classes={{{name!r}: {name}}})."
        )
    arguments = _build(value.get("arguments", {}), folder, classes)
    try:
        return classes[name](**arguments)
    except TypeError as error:
        raise ValueError(
            f"{folder} calls {name} with {sorted(arguments)}, but {error}. Expected the keywords of {name}. "
            "Load it with the version of mmfuse (or of your class) that saved it."
        ) from error


def _read_tokenizer(folder: Path, name: Any) -> Any:
    from transformers import AutoTokenizer

    place = folder / "tokenizers" / str(name)
    if not re.fullmatch(r"[\w-]+", str(name)) or not place.is_dir():
        raise ValueError(f"{folder} has no tokenizer {name!r}. Expected the folder {place}. Copy the model again.")
    return AutoTokenizer.from_pretrained(str(place), local_files_only=True)
