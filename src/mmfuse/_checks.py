"""Checks at the borders of the library. Each message says what was wrong, what was expected and how to mend it."""

import difflib
import math
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

# torch refuses these as names in a ModuleDict, because they are names of its own methods and attributes.
RESERVED_NAMES = frozenset(dir(torch.nn.ModuleDict())) | {""}


def require_shape(name: str, tensor: Tensor, expected: Mapping[str, int], mend: str) -> None:
    """Raise ValueError unless ``tensor`` has the expected size along every named axis."""
    if tuple(tensor.shape) != tuple(expected.values()):
        axes = ", ".join(f"{axis}={size}" for axis, size in expected.items())
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}. Expected ({axes}). {mend}")


def require_axes(name: str, tensor: Tensor, axes: Collection[str], mend: str) -> None:
    """Raise ValueError unless ``tensor`` has as many axes as are named."""
    if tensor.dim() != len(axes):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}. Expected ({', '.join(axes)}). {mend}")


def require_mask(name: str, mask: Tensor, expected: Mapping[str, int]) -> None:
    """Raise unless ``mask`` is boolean and has the expected shape."""
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} has dtype {mask.dtype}. Expected torch.bool with True where real. Use mask.bool().")
    require_shape(name, mask, expected, "A mask has one value for each entry of these axes, and no others.")


def require_names(owner: str, given: Collection[str], expected: Collection[str], mend: str) -> None:
    """Raise ValueError unless every expected name is given."""
    if missing := sorted(set(expected) - set(given)):
        raise ValueError(f"{owner} got no {missing}, only {sorted(given)}. Expected {sorted(expected)}. {mend}")


def require_known_names(owner: str, given: Iterable[str], known: Iterable[str], kind: str) -> None:
    """Raise ValueError if a name is given that is not one of ``known``."""
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(
                f"{owner}: unknown {kind} {name!r}. Expected one of {sorted(known)}.{nearest(name, known)}"
            )


def require_free_names(owner: str, names: Collection[str]) -> None:
    """Raise ValueError for a name that torch cannot hold in a ModuleDict."""
    for name in names:
        if not isinstance(name, str) or "." in name or name in RESERVED_NAMES:
            raise ValueError(
                f"{owner} cannot be named {name!r}, because nn.ModuleDict has that name already, or cannot hold it. "
                f"Expected another name. Write {str(name).replace('.', '_') or 'x'}_ for example."
            )


def require_kind(owner: str, name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise TypeError unless a value is of a kind; ``expected`` says in words which, and how to give it."""
    if not isinstance(value, kind):
        raise TypeError(f"{owner} got {name}={short(value)}. Expected {expected}.")


def short(value: object) -> str:
    """How a value is shown in a message: a module or a tensor by its class."""
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def usable_device(owner: str, given: object, mend: str) -> torch.device:
    """The device, or a ValueError if none is meant or it is not there; ``mend`` says what is expected."""
    try:
        device = torch.device(given)  # type: ignore[call-overload]
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:  # the last: torch was built without CUDA
        reason = str(error).split("\n")[0][:120].rstrip(".:")
        raise ValueError(f"{owner} got device={given!r}, which cannot be used: {reason}. {mend}") from error
    return device


def is_number(value: object) -> bool:
    """Whether it is one number, also one of numpy or torch, and neither text nor True or False."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return False
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # an array, a tensor, or more than a float can hold
        return False
    return True


def require_positive(owner: str, **sizes: int | float) -> None:
    """Raise ValueError unless every named number is above zero."""
    for name, size in sizes.items():
        if not is_number(size) and not isinstance(size, bool):
            raise TypeError(f"{owner} got {name}={size!r}. Expected a number above 0. Write {name}=1 for example.")
        if not size > 0:
            raise ValueError(f"{owner} got {name}={size}. Expected a number above 0. Choose a larger {name}.")


def require_whole(owner: str, **numbers: int) -> None:
    """Raise TypeError unless every named number is a whole one, and not True or False."""
    for name, number in numbers.items():
        if not is_number(number) or not hasattr(number, "__index__"):
            example = number if isinstance(number, str) and number.isdecimal() else 32
            raise TypeError(
                f"{owner} got {name}={number!r}. Expected a whole number. Write {name}={example} for example."
            )


def require_count(owner: str, **counts: int) -> None:
    """Raise TypeError unless every named number is a whole one, and ValueError unless it is above zero."""
    require_whole(owner, **counts)
    require_positive(owner, **counts)


def require_numbers(owner: str, **numbers: float) -> None:
    """Raise TypeError unless every one is a number, and not True or False, and ValueError unless it is finite."""
    for name, number in numbers.items():
        problem = f"{owner} got {name}={number!r}. Expected a finite number. Leave {name} out for its usual value."
        if not is_number(number):
            raise TypeError(problem)
        if not math.isfinite(number):
            raise ValueError(problem)


def require_switches(owner: str, **switches: bool) -> None:
    """Raise TypeError unless each is True or False: the text "no" would count as True."""
    for name, switch in switches.items():
        if not isinstance(switch, bool):
            raise TypeError(f"{owner} got {name}={switch!r}. Expected True or False. Write {name}=True for example.")


def require_choice(owner: str, name: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if not any(isinstance(value, type(choice)) and value == choice for choice in choices):
        hint = nearest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
        raise ValueError(f"{owner} got {name}={value!r}. Expected one of {list(choices)}.{hint}")


def nearest(name: str, known: Collection[str]) -> str:
    """The end of a message: the known name that comes nearest, if one is near."""
    if not isinstance(name, str):
        return ""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def require_dims(owner: str, dims: Mapping[str, int], dim: int) -> None:
    """Raise unless a fusion was given at least one modality, by name, and positive widths."""
    if not isinstance(dims, Mapping):
        raise TypeError(
            f"{owner} got dims={dims!r}. Expected the width of each modality by its name, such as {{'text': 768}}. "
            "Use dims_of(encoders) to make it."
        )
    if not dims:
        raise ValueError(
            f"{owner} got no modalities. Expected dims such as {{'text': 768}}. Use dims_of(encoders) to make it."
        )
    require_free_names("A modality", dims)
    require_positive(owner, dim=dim, **dims)


def require_two(owner: str, dims: Mapping[str, int], dim: int, instead: str) -> None:
    """Raise ValueError unless a fusion that is defined for two modalities was given two."""
    require_dims(owner, dims, dim)
    if len(dims) != 2:
        raise ValueError(
            f"{owner} got {len(dims)} modalities: {sorted(dims)}. Expected exactly two: its equation has two factors. "
            f"Use {instead} for another number, or Nested to fuse two first."
        )


def require_main(owner: str, main: str | None, dims: Mapping[str, int]) -> str:
    """The main modality of a fusion: the first one if None; ValueError unless it is one of ``dims``."""
    if main is None:
        return next(iter(dims))
    if main not in dims:
        raise ValueError(f"{owner} got main={main!r}. Expected one of {sorted(dims)}.{nearest(main, dims)}")
    return main


def require_share(owner: str, **shares: int | float) -> None:
    """Raise ValueError unless every named number, such as a dropout, is from 0 to below 1."""
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{owner} got {name}={share}. Expected a share from 0 to below 1. Try {name}=0.1.")


def require_not_negative(owner: str, **weights: int | float) -> None:
    """Raise ValueError unless every named number, such as the weight of a penalty, is 0 or above."""
    for name, weight in weights.items():
        if not is_number(weight):
            raise TypeError(f"{owner} got {name}={weight!r}. Expected a number from 0 up. Write {name}=0 for example.")
        if not weight >= 0:
            raise ValueError(f"{owner} got {name}={weight}. Expected 0 or more. Give {name}=0 to leave it out.")
