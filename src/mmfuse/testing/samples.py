"""What the promises are tried on: a fusion that can be built again, and samples that lack something."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmfuse.contracts import Features, Fused

DIMS = {"text": 6, "audio": 4, "image": 5}
TIMES = {"text": 5, "audio": 7, "image": 3}


@dataclass(frozen=True)
class Case:
    """How to build a fusion, and for which modalities."""

    make: Callable[[Mapping[str, int]], nn.Module]
    dims: Mapping[str, int]

    def fusion(self, *, seed: int = 0, dims: Mapping[str, int] | None = None) -> nn.Module:
        """A new one in float64, in evaluation mode, with every parameter off its initial value.

        A zero or a one there can hide a fault.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fusion = self.make(dims or self.dims).double().eval()
            with torch.no_grad():
                for parameter in fusion.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return fusion

    def features(self, *, seed: int = 0) -> dict[str, Features]:
        """Six samples, see :func:`random_features`."""
        return random_features(self.dims, seed=seed)


def random_features(dims: Mapping[str, int] = DIMS, *, seed: int = 0) -> dict[str, Features]:
    """Six samples in float64: all modalities, each one missing once, one alone, none at all; padding in all."""
    generator = torch.Generator().manual_seed(seed)
    features = {}
    for place, (name, dim) in enumerate(dims.items()):
        time = TIMES.get(name, 4 + place)
        lengths = torch.tensor([time, time - 1, max(time - 2, 1), time, 1, 0])
        lengths[1 + place % 3] = 0  # the samples 1, 2 and 3 lack one modality each
        lengths[4] = 1 if place == 0 else 0  # sample 4 has only the first modality
        features[name] = Features(
            tokens=torch.randn(6, time, dim, generator=generator, dtype=torch.float64),
            mask=torch.arange(time) < lengths[:, None],
            pooled=torch.randn(6, dim, generator=generator, dtype=torch.float64),
        )
    return features


def rows(features: Mapping[str, Features], chosen: Any) -> dict[str, Features]:
    """Some samples of a batch."""
    return {name: pytree.tree_map(lambda x: x[chosen], x) for name, x in features.items()}


def padded(features: Mapping[str, Features], steps: int) -> dict[str, Features]:
    """The same samples with more padding, full of large numbers."""
    return {name: _pad(x, steps) for name, x in features.items()}


def spoiled(features: Mapping[str, Features], value: float) -> dict[str, Features]:
    """The same samples with a value wherever nothing is real."""
    return {
        name: replace(
            x,
            tokens=x.tokens.masked_fill(~x.mask[..., None], value),
            pooled=x.pooled.masked_fill(~x.present[:, None], value),
        )
        for name, x in features.items()
    }


def watched(features: Mapping[str, Features]) -> dict[str, Features]:
    """A copy whose tokens and pooled vectors collect gradients."""
    return {
        name: replace(
            x,
            tokens=x.tokens.detach().clone().requires_grad_(),
            pooled=x.pooled.detach().clone().requires_grad_(),
        )
        for name, x in features.items()
    }


def cast(features: Mapping[str, Features], dtype: torch.dtype) -> dict[str, Features]:
    """The same samples in another floating point type."""
    return {name: replace(x, tokens=x.tokens.to(dtype), pooled=x.pooled.to(dtype)) for name, x in features.items()}


def present_anywhere(features: Mapping[str, Features]) -> Tensor:
    """Which samples have a modality at all."""
    return torch.stack([x.present for x in features.values()]).any(dim=0)


def real(fused: Fused) -> dict[str, Any]:
    """What may be compared: real tokens only, since the others are unspecified."""
    features = fused.features
    pooled = features.pooled.masked_fill(~features.present[:, None], 0.0)
    tokens = features.tokens.masked_fill(~features.mask[..., None], 0.0)
    return {"pooled": pooled, "tokens": tokens[features.mask], **fused.weights, **fused.penalties}


def loss_of(fused: Fused) -> Tensor:
    """A number that depends on every real value of a fusion's result."""
    tokens = fused.features.tokens[fused.features.mask]
    parts = [fused.features.pooled, tokens, *fused.weights.values(), *fused.penalties.values()]
    return sum(_spread(part).sum() for part in parts)  # type: ignore[return-value]


def assert_same(actual: Fused, expected: Fused, what: str) -> None:
    """Raise AssertionError unless two results agree in all that is real."""
    found, wanted = real(actual), real(expected)
    if set(found) != set(wanted):
        raise AssertionError(f"{what}: it gives {sorted(found)} instead of {sorted(wanted)}")
    for name, value in wanted.items():
        assert_close(found[name], value, f"{what} ({name})")


def assert_close(actual: Tensor, expected: Tensor, what: str) -> None:
    """Raise AssertionError, saying what, unless two tensors in float64 agree."""
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9, msg=lambda text: f"{what}. {text}")


def _spread(part: Tensor) -> Tensor:
    """Each value times a number of its own, so that no two gradients cancel."""
    return part * torch.cos(torch.arange(part.numel(), dtype=part.dtype)).reshape(part.shape)


def _pad(features: Features, steps: int) -> Features:
    tokens, mask = features.tokens, features.mask
    return replace(
        features,
        tokens=torch.cat([tokens, tokens.new_full((len(tokens), steps, tokens.shape[2]), 1e4)], dim=1),
        mask=torch.cat([mask, mask.new_zeros(len(mask), steps)], dim=1),
    )
