"""What a fusion reads of its modalities, with zeros where nothing is real, and what it reports of them."""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmfuse._checks import require_names
from mmfuse.contracts import Features
from mmfuse.layers.masking import real_only


def read_pooled(
    features: Mapping[str, Features], names: Iterable[str]
) -> tuple[dict[str, Float[Tensor, "batch _"]], Bool[Tensor, "batch modality"]]:
    """The pooled vectors of some modalities, zeros where absent, and which modalities each sample has.

    As :meth:`Features.zeroed`, without touching the tokens: call it before the first parameter.
    """
    chosen = _chosen(features, names)
    present = torch.stack([x.present for x in chosen.values()], dim=1)
    real = present.to(next(iter(chosen.values())).pooled.dtype)  # once for all: small fusions are made of kernels
    pooled = {
        name: real_only(x.pooled, here) for (name, x), here in zip(chosen.items(), real.split(1, dim=1), strict=True)
    }
    return pooled, present


def read_tokens(
    features: Mapping[str, Features], names: Iterable[str]
) -> tuple[dict[str, Float[Tensor, "batch _ _"]], dict[str, Bool[Tensor, "batch _"]]]:
    """The tokens of some modalities, zeros where not real, and their masks."""
    chosen = _chosen(features, names)
    tokens = {name: real_only(x.tokens, x.mask[..., None]) for name, x in chosen.items()}
    return tokens, {name: x.mask for name, x in chosen.items()}


def by_name(names: Iterable[str], weights: Float[Tensor, "batch modality"]) -> dict[str, Float[Tensor, " batch"]]:
    """The column of each modality, by its name: what ``Fused.weights`` takes."""
    return dict(zip(names, weights.unbind(dim=1), strict=True))


def _chosen(features: Mapping[str, Features], names: Iterable[str]) -> dict[str, Features]:
    """The features of some modalities, in the order of the names."""
    names = list(names)
    require_names("The fusion", features, names, "Give a modality that no sample has, too, with a mask of False.")
    return {name: features[name] for name in names}
