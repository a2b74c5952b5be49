"""A model -> the folder of a saved model."""

import json
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from mmfuse._checks import require_kind
from mmfuse._files import hash_file, read_json, write_folder, write_tensors
from mmfuse.distributed import rank_0_first, whole_state
from mmfuse.model import MultimodalModel
from mmfuse.persistence.describing import describe_model
from mmfuse.persistence.manifest import write_manifest

VERSION = 2  # 1 had no manifest


def save(model: MultimodalModel, folder: str | Path) -> None:
    """Write a model, with all that :func:`load` needs to build it and to read data for it.

    Under several processes call it on every one of them: rank 0 writes, and the others wait until it has.

    Args:
        model: made of recorded parts: all of mmfuse's, and classes decorated with ``@mmfuse.recorded``.
        folder: new, empty, or a model saved before, which is replaced when the new one is whole.

    Raises:
        TypeError: a part does not remember how it was built, or was built with something that JSON cannot hold.
        FileExistsError: the folder holds something else.
        RuntimeError: some processes share the weights (``strategy="fsdp"``), and not all of them save.
    """
    require_kind("save", "folder", folder, (str, PathLike), "a path. Write save(model, 'model')")
    folder = Path(folder)
    if not _is_itself(model):
        raise TypeError(
            f"save got a {type(model).__name__}. Expected a MultimodalModel itself, not a class round it or below it: "
            "its own code would be lost. Give the model inside (model.module or model._orig_mod)."
        )
    with rank_0_first("save") as mine:
        if mine and folder.exists() and not _is_model(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(
                f"{folder} holds something that is not a saved model. Expected a new folder. Choose one."
            )
    model = _with_encoders(model)
    state = whole_state(model, "save")
    tokenizers: dict[str, Any] = {}
    described = describe_model(model, tokenizers)
    text = json.dumps({"format": "mmfuse", "version": VERSION, "model": described}, indent=1, allow_nan=False)

    def fill(new: Path) -> None:
        for name, tokenizer in tokenizers.items():
            tokenizer.save_pretrained(new / "tokenizers" / name)
        write_tensors(new / "model.safetensors", state)
        (new / "config.json").write_text(text + "\n", encoding="utf-8")
        files = {path.relative_to(new).as_posix(): hash_file(path) for path in new.rglob("*") if path.is_file()}
        write_manifest(new, files, version=VERSION)
        (new / "README.md").write_text(_card(model), encoding="utf-8")

    with rank_0_first("save") as mine:
        if mine:
            write_folder(folder, fill)


def _is_itself(model: nn.Module) -> bool:
    """Whether a model is a MultimodalModel and no more, or one that FSDP2 has shared out: it puts a class round it."""
    kind = type(model)
    shared_out = MultimodalModel in kind.__bases__ and kind.__name__ == f"FSDP{MultimodalModel.__name__}"
    return kind is MultimodalModel or shared_out


def _with_encoders(model: MultimodalModel) -> MultimodalModel:
    """The model with the encoders themselves, where cached features stood in for them."""
    if not any(hasattr(encoder, "stands_for") for encoder in model.encoders.values()):
        return model
    encoders: Any = {name: getattr(encoder, "stands_for", encoder) for name, encoder in model.encoders.items()}
    return MultimodalModel(encoders, model.fusion, dict(model.tasks.items()), missing=model.missing)


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
