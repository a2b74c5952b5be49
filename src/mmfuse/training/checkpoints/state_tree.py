"""A nested state -> its tensors by path, and the rest of it as strict JSON; and back."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def take_apart(state: Any, owner: str) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a state by path, and the rest as JSON, which is a copy.

    What JSON lacks is marked by "$": ``{"$tensor": path}``, ``{"$tuple": [...]}``, ``{"$float": "nan"}``, and whole
    numbers as keys (``"$0"``; a key that begins with "$" gets another one).

    Args:
        state: mappings, lists, tuples, numbers, text, None and tensors.
        owner: whose state it is, for messages.

    Raises:
        TypeError: the state holds something else.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _encode(state, owner, (), tensors)


def put_together(rest: Any, tensors: Mapping[str, Any]) -> Any:
    """The state that :func:`take_apart` took apart."""
    if isinstance(rest, list):
        return [put_together(item, tensors) for item in rest]
    if not isinstance(rest, dict):
        return rest
    if "$tensor" in rest:
        return tensors[rest["$tensor"]]
    if "$float" in rest:
        return float(rest["$float"])
    if "$tuple" in rest:
        return tuple(put_together(item, tensors) for item in rest["$tuple"])
    return {_key(text): put_together(item, tensors) for text, item in rest.items()}


def plain_number(value: Any) -> Any:
    """A number, such as one of numpy, as one of Python; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _encode(value: Any, owner: str, path: tuple[Any, ...], tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = "/".join(map(str, path))
        while name in tensors:  # "a/b" beside "b" in "a"
            name += "'"
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, Mapping):
        return {_text(key, owner): _encode(item, owner, (*path, key), tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_encode(item, owner, (*path, i), tensors) for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"$tuple": _encode([*value], owner, path, tensors)}
    value = plain_number(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"The state of {owner} holds a {type(value).__name__} at {'/'.join(map(str, path))!r}. Expected tensors, "
        "numbers, text, and lists and mappings of them. Give it another state_dict()."
    )


def _text(key: Any, owner: str) -> str:
    if isinstance(key, str):
        return f"${key}" if key.startswith("$") else key
    if type(key) is int:
        return f"${key}"
    raise TypeError(
        f"The state of {owner} has the key {key!r}. Expected text or whole numbers. Give it another state_dict()."
    )


def _key(text: str) -> str | int:
    if text.startswith("$$"):
        return text[1:]
    return int(text[1:]) if text.startswith("$") else text
