"""Absent modalities: hidden, replaced or predicted."""

from mmfuse.missing.hide import hide

__all__ = ["hide"]
