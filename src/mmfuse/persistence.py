"""Models saved as a folder and built again from it: no pickle, no network, no code from the folder.

``config.json`` says which classes were called with which keywords, ``model.safetensors`` holds the weights,
``tokenizers/`` the tokenizers, ``README.md`` a model card.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmfuse._checks import nearest
from mmfuse._files import read_json, read_tensors, require_same_tensors, write_folder, write_tensors
from mmfuse._record import arguments_of
from mmfuse.model import MultimodalModel

VERSION = 1
CLASS, TOKENIZER = "$class", "$tokenizer"


def save(model: MultimodalModel, folder: str | Path) -> None:
    """Write a model, with all that :func:`load` needs to build it and to read data for it.

    Args:
        model: made of recorded parts: all of mmfuse's, and classes decorated with ``@mmfuse.recorded``.
        folder: new, empty, or a model saved before, which is replaced when the new one is whole.

    Raises:
        TypeError: a part does not remember how it was built, or was built with something that JSON cannot hold.
        FileExistsError: the folder holds something else.
    """
    folder = Path(folder)
    if type(model) is not MultimodalModel:
        raise TypeError(
            f"save got a {type(model).__name__}. Expected a MultimodalModel itself, not a class round it or below it: "
            "its own code would be lost. Give the model inside (model.module or model._orig_mod)."
        )
    if folder.exists() and not _is_model(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds something that is not a saved model. Expected a new folder. Choose one.")
    tokenizers: dict[str, Any] = {}
    described = _describe_model(model, tokenizers)
    text = json.dumps({"format": "mmfuse", "version": VERSION, "model": described}, indent=1, allow_nan=False)

    def fill(new: Path) -> None:
        for name, tokenizer in tokenizers.items():
            tokenizer.save_pretrained(new / "tokenizers" / name)
        write_tensors(new / "model.safetensors", model.state_dict())
        (new / "config.json").write_text(text + "\n", encoding="utf-8")
        (new / "README.md").write_text(_card(model), encoding="utf-8")

    write_folder(folder, fill)


def load(
    folder: str | Path, *, classes: Mapping[str, Any] | None = None, device: torch.device | str = "cpu"
) -> MultimodalModel:
    """Build a saved model, in evaluation mode, from the folder alone.

    Args:
        folder: what :func:`save` wrote.
        classes: your own classes by name, for a model that has some: ``{"MyFusion": MyFusion}``. Names are looked up
            here and among mmfuse's classes, and nowhere else.
        device: where the model goes.

    Raises:
        ValueError: the folder is not a saved model, is damaged, or names a class that is not known.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Expected one that mmfuse.save has written. Check the path.")
    config = read_json(folder / "config.json")
    if config.get("format") != "mmfuse" or config.get("version") != VERSION:
        raise ValueError(
            f"{folder} has format {config.get('format')!r}, version {config.get('version')!r}. Expected a model saved "
            f"by mmfuse with version {VERSION}. Update mmfuse, or choose another folder."
        )
    with torch.random.fork_rng(devices=[]):  # the first weights are random, and replaced at once
        model = _build(config.get("model"), folder, {**_own_classes(), **(classes or {})})
    if not isinstance(model, MultimodalModel):
        raise ValueError(
            f"{folder} describes a {type(model).__name__}. Expected a MultimodalModel. Use another folder."
        )
    tensors = read_tensors(folder / "model.safetensors")
    require_same_tensors("The saved model", folder, model.state_dict(), tensors)
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:  # a model in another precision than that of its constructor
        model.to(dtypes.pop())
    model.load_state_dict(tensors)
    for encoder in model.encoders.values():
        # Its weights are trained: further training takes the smaller learning rate.
        setattr(encoder, "pretrained", True)  # noqa: B010  a plain assignment is unsound to a type checker
    return model.to(device).eval()


def _own_classes() -> dict[str, Any]:
    """Everything that a config may name without being told."""
    from mmfuse.encoders import ENCODERS
    from mmfuse.fusion import FUSIONS
    from mmfuse.fusion.nested import Nested
    from mmfuse.missing import MISSING
    from mmfuse.tasks import TASKS

    return {**ENCODERS, **FUSIONS, **MISSING, **TASKS, "Nested": Nested, "MultimodalModel": MultimodalModel}


def _describe_model(model: MultimodalModel, tokenizers: dict[str, Any]) -> dict[str, Any]:
    """The parts that the model has now (they may have been replaced since it was built)."""
    parts = {
        "encoders": dict(model.encoders.items()),
        "fusion": model.fusion,
        "tasks": dict(model.tasks.items()),
        "missing": model.missing,
    }
    return {CLASS: "MultimodalModel", "arguments": _describe(parts, "model", tokenizers)}


def _describe(value: Any, path: str, tokenizers: dict[str, Any]) -> Any:
    """An argument as JSON. Tokenizers are put aside under the path where they stand."""
    finite = not isinstance(value, float) or math.isfinite(value)
    if value is None or (isinstance(value, bool | int | float | str) and finite):
        return value
    if isinstance(value, Mapping):
        if reserved := [key for key in value if str(key).startswith("$")]:
            raise TypeError(f"{path} has the names {reserved}. Expected names without '$' in front. Rename them.")
        return {str(key): _describe(item, f"{path}.{key}", tokenizers) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_describe(item, f"{path}.{i}", tokenizers) for i, item in enumerate(value)]
    if hasattr(value, "save_pretrained") and hasattr(value, "backend_tokenizer"):
        name = re.sub(r"\W+", "-", path.removeprefix("model."))
        tokenizers[name] = value
        return {TOKENIZER: name}
    if isinstance(value, nn.Module) or hasattr(value, "_recorded_arguments"):
        return {CLASS: type(value).__name__, "arguments": _describe(arguments_of(value), path, tokenizers)}
    raise TypeError(
        f"{path} is a {type(value).__name__}{'' if finite else f' ({value})'}, which JSON cannot hold. Expected finite "
        "numbers, text, lists, mappings, tokenizers and recorded modules. Change the argument of the class, and build "
        "the rest inside it."
    )


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


def _is_model(folder: Path) -> bool:
    try:
        return read_json(folder / "config.json").get("format") == "mmfuse"
    except ValueError:
        return False


def _card(model: MultimodalModel) -> str:
    """A model card: what goes in, what comes out, how to use it."""
    encoders = "\n".join(f"- `{name}`: {type(encoder).__name__}" for name, encoder in model.encoders.items())
    tasks = "\n".join(f"- `{name}`: {type(task).__name__}{_classes_of(task)}" for name, task in model.tasks.items())
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return f"""---
library_name: mmfuse
tags: [multimodal, {", ".join(sorted(model.encoders))}]
---

# A multimodal model made with mmfuse

{millions:.2f} million parameters, fused by {type(model.fusion).__name__}. Any modality may be missing.

Modalities:

{encoders}

Tasks:

{tasks}

```python
import mmfuse
from mmfuse.data import load_batches, read_table
from mmfuse.evaluation import predict

model = mmfuse.load("this folder")
rows = predict(model, load_batches(read_table("new.csv"), model))
```
"""


def _classes_of(task: Any) -> str:
    return f", {len(task.classes)} classes" if hasattr(task, "classes") else ""
