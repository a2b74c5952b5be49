"""Shared by the encoders round another encoder: what it says of its width and weights, they say too."""

from abc import ABC, abstractmethod
from typing import Any

from torch import nn


class AroundEncoder(nn.Module, ABC):
    """Abstract: an encoder round another one, whose ``dim``, ``backbone`` and ``pretrained`` are its own."""

    @property
    @abstractmethod
    def _inner(self) -> Any:
        """The encoder inside."""

    @property
    def dim(self) -> int:
        """Width of the features."""
        return self._inner.dim

    @property
    def backbone(self) -> Any:
        """The part of the encoder inside that may be pretrained; all of it if it does not say."""
        return getattr(self._inner, "backbone", self._inner)

    @property
    def pretrained(self) -> bool:
        """Whether the weights of the backbone are trained already."""
        return getattr(self._inner, "pretrained", False)

    @pretrained.setter
    def pretrained(self, value: bool) -> None:
        self._inner.pretrained = value
