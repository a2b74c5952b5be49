"""Remembers how a module was built, so that it can be saved without pickle."""

import functools
import inspect
import reprlib
from collections.abc import Callable
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)


def recorded(cls: Class) -> Class:
    """Class decorator: keep the keywords of the constructor, so that :func:`mmfuse.save` can write them down.

    Every part of a model that is to be saved carries it, a user's own included::

        @mmfuse.recorded
        class MyFusion(nn.Module): ...
    """
    build: Callable[..., None] = getattr(cls, "__init__")  # noqa: B009  a type checker refuses the plain form
    signature = inspect.signature(build)
    kinds = {parameter.kind: name for name, parameter in signature.parameters.items()}
    nameless, others = (
        kinds.get(kind, "") for kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    )

    @functools.wraps(build)
    def remember(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        if type(self) is cls:  # a subclass has other keywords, and is recorded itself or not at all
            bound = signature.bind(self, *args, **kwargs).arguments
            if nameless in bound:
                raise TypeError(
                    f"@recorded cannot keep *{nameless} of {cls.__name__}. Expected arguments with names, because a "
                    "saved model is built from keywords. Take one list instead."
                )
            arguments = dict(list(bound.items())[1:])
            vars(self)["_recorded_arguments"] = arguments | arguments.pop(others, {})

    setattr(cls, "__init__", remember)  # noqa: B010  a plain assignment is unsound to a type checker
    if cls.__repr__ is object.__repr__:  # modules have their own
        setattr(cls, "__repr__", _call)  # noqa: B010
    return cls


def _call(self: Any) -> str:
    """How it was built, long lists and texts cut: ``ImageTransform(size=64, train=True)``."""
    arguments = vars(self).get("_recorded_arguments", {})
    return f"{type(self).__name__}({', '.join(f'{name}={reprlib.repr(x)}' for name, x in arguments.items())})"


def arguments_of(part: Any) -> dict[str, Any]:
    """The keywords that a recorded object was built with."""
    try:
        return part._recorded_arguments
    except AttributeError:
        name = type(part).__name__
        raise TypeError(
            f"{name} does not remember how it was built. Expected a class decorated with @mmfuse.recorded. "
            f"Write @mmfuse.recorded above 'class {name}'."
        ) from None
