"""What one stage hands to the next.

    Sample -> Batch -> {modality: Features} -> Fused -> {task: prediction}

In every mask True means real. Values under False are unspecified: never read them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree

from mmfuse._checks import require_axes, require_mask, require_shape


@dataclass(frozen=True)
class Input:
    """One modality of one batch, before its encoder."""

    values: Shaped[Tensor, "batch ..."]
    present: Bool[Tensor, " batch"]  # which samples have this modality
    mask: Bool[Tensor, "batch time"] | None = None  # which steps are real; None: no padding

    def __post_init__(self) -> None:
        if not _are_tensors(self.values, self.present):
            return
        batch = self.values.shape[0]
        require_mask("Input.present", self.present, {"batch": batch})
        if self.mask is not None:
            time = self.values.shape[1] if self.values.dim() > 1 else 1
            require_mask("Input.mask", self.mask, {"batch": batch, "time": time})

    def zeroed(self) -> "Input":
        """The same input with zeros wherever nothing is real."""
        real = self.present if self.mask is None else self.present[:, None] & self.mask
        real = real.reshape(*real.shape, *(1,) * (self.values.dim() - real.dim()))
        return replace(self, values=self.values.masked_fill(~real, 0))


@dataclass(frozen=True)
class Target:
    """The labels of one task."""

    values: Shaped[Tensor, "batch ..."]
    known: Bool[Tensor, " batch"]  # which samples carry this label

    def __post_init__(self) -> None:
        if _are_tensors(self.values, self.known):
            require_mask("Target.known", self.known, {"batch": self.values.shape[0]})


@dataclass(frozen=True)
class Batch:
    """Some samples: their modalities and their labels."""

    inputs: Mapping[str, Input]
    targets: Mapping[str, Target] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {name: x.values.shape[0] for name, x in self.inputs.items() if _is_tensor_of(x, Input)}
        sizes |= {name: x.values.shape[0] for name, x in self.targets.items() if _is_tensor_of(x, Target)}
        first = next(iter(sizes.values()), 0)
        if any(size != first for size in sizes.values()):
            raise ValueError(
                f"Batch holds unequal numbers of samples: {sizes}. Expected one number for all inputs and targets. "
                "Keep a row for a sample that lacks a modality, with present=False."
            )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""
        return pytree.tree_map_only(Tensor, lambda x: x.to(device, non_blocking=non_blocking), self)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory. The DataLoader calls this."""
        return pytree.tree_map_only(Tensor, lambda x: x.pin_memory(), self)


@dataclass(frozen=True)
class Features:
    """One modality, encoded. A sample without a real token does not have the modality."""

    tokens: Float[Tensor, "batch time dim"]
    mask: Bool[Tensor, "batch time"]  # which tokens are real
    pooled: Float[Tensor, "batch dim"]  # one vector per sample

    def __post_init__(self) -> None:
        if not _are_tensors(self.tokens, self.mask, self.pooled):
            return
        require_axes("Features.tokens", self.tokens, ("batch", "time", "dim"), "Use Features.from_pooled for vectors.")
        batch, time, dim = self.tokens.shape
        require_mask("Features.mask", self.mask, {"batch": batch, "time": time})
        require_shape("Features.pooled", self.pooled, {"batch": batch, "dim": dim}, "Pool with layers.masked_mean.")

    @classmethod
    def from_pooled(cls, pooled: Float[Tensor, "batch dim"], present: Bool[Tensor, " batch"]) -> "Features":
        """One vector, as its own only token."""
        return cls(tokens=pooled[:, None], mask=present[:, None], pooled=pooled)

    @property
    def present(self) -> Bool[Tensor, " batch"]:
        """Which samples have this modality."""
        return self.mask[:, 0] if self.mask.shape[1] == 1 else self.mask.any(dim=1)

    def zeroed(self) -> "Features":
        """The same features with zeros wherever nothing is real."""
        return replace(
            self,
            tokens=self.tokens.masked_fill(~self.mask[..., None], 0.0),
            pooled=self.pooled.masked_fill(~self.present[:, None], 0.0),
        )


@dataclass(frozen=True)
class Fused:
    """All modalities as one. A method that makes one vector gives it as its only token."""

    features: Features
    weights: Mapping[str, Float[Tensor, " batch"]] = field(default_factory=dict)  # share of each modality
    penalties: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)  # extra losses, by name


@dataclass(frozen=True)
class Output:
    """Everything one forward pass made, so that nothing has to be fished out with hooks."""

    features: Mapping[str, Features]
    fused: Fused
    predictions: Mapping[str, Shaped[Tensor, "batch ..."]]


def _are_tensors(*values: Any) -> bool:
    """False where torch.export or a tree_map fills a contract with something else."""
    return all(isinstance(value, Tensor) for value in values)


def _is_tensor_of(part: Any, kind: type) -> bool:
    return isinstance(part, kind) and isinstance(part.values, Tensor)  # type: ignore[attr-defined]


for _contract in (Input, Target, Batch, Features, Fused, Output):
    torch.export.register_dataclass(_contract, serialized_type_name=f"mmfuse.{_contract.__name__}")
