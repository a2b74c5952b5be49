"""Shared by the transforms of images and videos: checks of what they draw at random."""

from typing import Any


def require_crop_scale(owner: str, crop_scale: Any) -> None:
    """Raise ValueError unless this is None, or two shares of the area, the smaller first."""
    if crop_scale is not None and not _is_range(crop_scale):
        raise ValueError(
            f"{owner} got crop_scale={crop_scale!r}. Expected two shares of the area, the smaller first, above 0 and "
            "up to 1. Try crop_scale=(0.8, 1.0), or None for the centre."
        )


def require_chances(owner: str, **chances: float) -> None:
    """Raise ValueError unless every named number is a probability."""
    for name, chance in chances.items():
        if not 0 <= chance <= 1:
            raise ValueError(f"{owner} got {name}={chance}. Expected a probability, 0 to 1. Try {name}=0.5.")


def _is_range(pair: Any) -> bool:
    try:
        low, high = pair
        return bool(0 < low <= high <= 1)
    except (TypeError, ValueError):
        return False
