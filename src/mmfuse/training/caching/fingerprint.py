"""What features are a function of beside the cell: encoder, transform, versions; as JSON that can be compared."""

import ast
import hashlib
import importlib.metadata
import inspect
import json
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse._files import hash_tensors, read_json
from mmfuse._record import arguments_of
from mmfuse.training.caching.whole import write_whole

VERSION = 1
# What decodes cells, cuts them into ids and computes features.
LIBRARIES = (
    *("mmfuse", "torch", "torchaudio", "torchvision", "transformers", "tokenizers"),
    *("pillow", "soundfile", "soxr", "torchcodec"),
)


def fingerprint(encoder: nn.Module, transform: Any, dtype: str) -> dict[str, Any]:
    """What the features of a cell depend on.

    Raises:
        TypeError: encoder or transform do not remember how they were built.
    """
    return {
        "encoder": {"weights": weights_of(encoder), **_described_part(encoder)},
        "transform": _described_part(transform),
        "versions": {name: version for name in LIBRARIES if (version := _version(name)) is not None},
        "dtype": dtype,
    }


def weights_of(encoder: nn.Module) -> str:
    """A hash of all that is in the state of an encoder."""
    return str(hash_tensors(encoder.state_dict())["sha256"])


def begin_or_compare(folder: Path, now: Mapping[str, Any], tokens: bool | None) -> bool:
    """Write down what a cache is made of, or refuse one that was made of something else; whether it holds tokens.

    Args:
        folder: of one modality.
        now: its fingerprint.
        tokens: whether tokens are wanted; a cache that has them serves for pooled vectors, too.
    """
    path = folder / "about.json"
    if not path.is_file():
        write_whole(path, {"version": VERSION, "tokens": tokens, "made_of": now})
        return bool(tokens)
    about = read_json(path)
    if about.get("version") != VERSION or not isinstance(about.get("made_of"), dict):
        raise ValueError(f"{path} has version {about.get('version')}. Expected {VERSION}. Cache into another folder.")
    changed = differences(about["made_of"], json.loads(json.dumps(now)))
    if tokens and not about.get("tokens"):
        changed.append("tokens are read, and it holds pooled vectors alone")
    if changed:
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ValueError(
            f"The features in {folder} are stale: {'; '.join(changed[:5])}{more}. Expected those of this very encoder, "
            "transform and installation. Give what they were made with, cache into another folder, or delete this one."
        )
    return bool(about.get("tokens"))


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """What is different in two nested mappings, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*before, *(name for name in now if name not in before)]
        return [
            difference
            for name in names
            for difference in differences(before.get(name), now.get(name), f"{path} {name}".strip())
        ]
    if before == now:
        return []
    if path.endswith(("weights", "code")):
        return [f"the {path.rpartition(' ')[2]} of the {path.rpartition(' ')[0]} changed"]
    return [f"{path} is {_short(now)}, was {_short(before)}"]


def described(value: Any, path: str) -> Any:
    """A setting as JSON; what is large, such as statistics or a tokenizer, as its hash."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): described(item, f"{path}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [described(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return {"hash": hash_tensors({"values": torch.as_tensor(value)})["sha256"]}
    if hasattr(value, "backend_tokenizer"):
        return {"tokenizer": _hash(_tokenizer(value))}
    if isinstance(value, float | Path):
        return value if isinstance(value, float) and math.isfinite(value) else str(value)
    return _described_part(value, path)


def _described_part(part: Any, path: str | None = None) -> dict[str, Any]:
    """Class, keywords, and the code of a class of the user's own: that of the libraries goes by their versions."""
    cls = type(part)
    if path is not None and not hasattr(part, "_recorded_arguments"):
        raise TypeError(
            f"{path} is a {cls.__name__}, whose settings cannot be told. Expected numbers, text, lists, mappings, "
            "arrays, tokenizers and classes with @mmfuse.recorded. Without that a stale cache would not be noticed."
        )
    own = {} if cls.__module__.partition(".")[0] in ("mmfuse", "torch") else {"code": _code(cls)}
    return {"class": cls.__name__, **own, "settings": described(arguments_of(part), cls.__name__)}


def _code(cls: type) -> str | None:
    """A hash of what a class does; comments and spaces do not count."""
    try:
        return _hash(ast.dump(ast.parse(textwrap.dedent(inspect.getsource(cls)))))
    except (OSError, TypeError, SyntaxError):  # typed into a prompt
        return None


def _tokenizer(tokenizer: Any) -> str:
    """All that decides about ids. How it was last asked to pad and to cut stands in it, and does not."""
    inside = json.loads(tokenizer.backend_tokenizer.to_str())
    inside |= {"truncation": None, "padding": None}
    names = ("padding_side", "truncation_side", "model_max_length", "special_tokens_map")
    return json.dumps([inside, *(str(getattr(tokenizer, name, None)) for name in names)], sort_keys=True)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
