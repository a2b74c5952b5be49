"""What a transform has made is looked at before it meets others in a batch."""

from typing import Any

from torch import Tensor

_MENDS = {
    "NoneType": "Does it return its result?",
    "ndarray": "Use torch.from_numpy.",
    "Image": "Use an ImageTransform, or torch.from_numpy(numpy.array(picture)).",
}


def require_tensor(made: Any, *, of: str = "The transform") -> Tensor:
    """Raise ValueError unless it is a tensor."""
    if not isinstance(made, Tensor):
        kind = type(made).__name__
        mend = _MENDS["Image"] if hasattr(made, "getbands") else _MENDS.get(kind, "Make one of it with torch.tensor.")
        raise ValueError(f"{of} gave {'None' if made is None else f'a {kind}'}. Expected a Tensor. {mend}")
    return made


def require_like(made: Tensor, blank: Tensor, *, sequence: bool) -> None:
    """Raise ValueError unless it has the shape (of a step, in a sequence) and the dtype of a blank."""
    first = 1 if sequence else 0
    if made.dim() != blank.dim() or made.shape[first:] != blank.shape[first:]:
        kind, shape = ("steps of shape", made.shape[1:]) if sequence and made.dim() else ("shape", made.shape)
        raise ValueError(
            f"The transform gave {kind} {tuple(shape)}. Expected {tuple(blank.shape[first:])}, as its blank has. "
            "Give all rows one shape."
        )
    if made.dtype != blank.dtype:
        raise ValueError(
            f"The transform gave {made.dtype}. Expected {blank.dtype}, as its blank has. Give all rows one dtype: "
            f"tensor.to({blank.dtype})."
        )
