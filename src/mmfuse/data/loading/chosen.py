"""The transforms of a model's encoders, or others in their place; what is no transform is refused by name."""

from collections.abc import Mapping
from typing import Any

from mmfuse._checks import require_known_names
from mmfuse.data.transforms import Transform

_NEEDED = {
    "__call__": "give it __call__(value) -> Tensor",
    "blank": "give it blank() -> Tensor, what stands in for an absent sample",
    "padding": "set padding = None if all results have one shape, or the number that fills up shorter ones",
    "random": "set random = False, or True if it draws random numbers",
    "takes_path": "set takes_path = False, or True if text cells are paths of files",
}


def transforms_of(
    caller: str, model: Any, transforms: Mapping[str, Transform] | None, *, train: bool
) -> dict[str, Transform]:
    """For each modality of a model its transform: the one given, or the one that its encoder hands out.

    Raises:
        TypeError: there are no encoders, or one hands out no transform.
        ValueError: a transform is given for no modality of the model.
    """
    encoders = getattr(model, "encoders", None)
    if encoders is None or not hasattr(model, "tasks"):
        raise TypeError(
            f"{caller} got a {type(model).__name__} for the model. Expected a MultimodalModel, or anything with "
            "encoders and tasks by name. Build the model first: its encoders say how to read the table."
        )
    if not len(encoders):
        raise TypeError(f"{caller} got a model without encoders. Expected one or more. Give one for each modality.")
    given = dict(transforms or {})
    require_known_names(f"{caller}(transforms=...)", given, encoders, "modality")
    for name, encoder in encoders.items():
        if given.get(name) is None:
            if not callable(getattr(encoder, "transform", None)):
                raise TypeError(
                    f"{caller}: the encoder of {name!r} ({type(encoder).__name__}) has no transform(train). Expected "
                    f"one that says how to read a cell. Add it, or give transforms={{{name!r}: ...}}."
                )
            given[name] = encoder.transform(train)
    return {name: given[name] for name in encoders}


def require_transforms(transforms: Mapping[str, Any]) -> None:
    """Raise TypeError unless each has what the loader asks of a transform."""
    for name, transform in transforms.items():
        missing = [
            part
            for part in _NEEDED
            if not hasattr(transform, part)
            or (part in ("__call__", "blank") and not callable(getattr(transform, part)))
        ]
        if isinstance(transform, type):
            raise TypeError(
                f"The transform of {name!r} is the class {transform.__name__}. Expected an object of it. "
                f"Write {transform.__name__}()."
            )
        if missing:
            raise TypeError(
                f"The transform of {name!r} ({type(transform).__name__}) lacks {', '.join(missing)}. Expected a "
                f"mmfuse.data.transforms.Transform. Mend it: {'; '.join(_NEEDED[part] for part in missing)}."
            )
