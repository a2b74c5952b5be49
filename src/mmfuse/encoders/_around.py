"""Shared by the encoders round another encoder: what it says of its width and weights, they say too."""

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from mmfuse.encoders.stages import backbone_of, stages_of


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
        """That of the encoder inside."""
        return backbone_of(self._inner)

    @property
    def stages(self) -> list[list[nn.Module]]:
        """The stages of the backbone, lowest first."""
        return stages_of(self._inner)

    @property
    def pretrained(self) -> bool:
        """Whether the weights of the backbone are trained already."""
        return getattr(self._inner, "pretrained", False)

    @pretrained.setter
    def pretrained(self, value: bool) -> None:
        self._inner.pretrained = value
