"""A model -> JSON that says which classes were called with which keywords."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from mmfuse._record import arguments_of
from mmfuse.model import MultimodalModel

CLASS, TOKENIZER = "$class", "$tokenizer"


def describe_model(model: MultimodalModel, tokenizers: dict[str, Any]) -> dict[str, Any]:
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
