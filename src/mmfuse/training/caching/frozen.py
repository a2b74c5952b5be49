"""Which encoders can be cached, with which transforms, and what of their features is read."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from mmfuse._checks import require_known_names
from mmfuse.contracts import Features
from mmfuse.data.loading.chosen import require_transforms
from mmfuse.data.transforms import Transform
from mmfuse.model import MultimodalModel, dims_of


def frozen_encoders(model: MultimodalModel, modalities: Collection[str] | None) -> dict[str, Any]:
    """The encoders of some modalities, or of all that are frozen.

    Raises:
        TypeError: it is no model.
        ValueError: one of them learns, or none is frozen.
    """
    if not isinstance(model, MultimodalModel):
        raise TypeError(f"cache_features got a {type(model).__name__}. Expected a MultimodalModel. Build it first.")
    if cached := [name for name, encoder in model.encoders.items() if hasattr(encoder, "stands_for")]:
        raise ValueError(
            f"cache_features got a model whose encoders of {cached} are cached already. Expected the one that has its "
            "encoders. Give that, with all rows in one table, or each table in a call of its own."
        )
    learning = {name: _learning(encoder) for name, encoder in model.encoders.items()}
    if modalities is None:
        found = {n: e for n, e in model.encoders.items() if not learning[n] and any(True for _ in e.parameters())}
        if not found:
            counts = {name: len(parameters) for name, parameters in learning.items()}
            raise ValueError(
                f"cache_features found no frozen encoder: so many parameters learn in each: {counts}. Expected one or "
                "more without any. Freeze them: encoder.requires_grad_(False), or freeze='all' when they are built."
            )
        return found
    names = [modalities] if isinstance(modalities, str) else list(modalities)
    require_known_names("cache_features(modalities=...)", names, model.encoders, "modality")
    for name in names:
        if learning[name]:
            raise ValueError(
                f"The encoder of {name!r} learns: {len(learning[name])} of its parameters require a gradient, such as "
                f"{learning[name][0]!r}. Expected a frozen one, whose features stay the same. Freeze it: "
                "encoder.requires_grad_(False), or leave it out of modalities to train it beside the cached ones."
            )
    return {name: model.encoders[name] for name in names}


def left_out(model: MultimodalModel, chosen: Collection[str]) -> dict[str, str]:
    """Why the other encoders are not cached."""
    return {name: _why_not(encoder) for name, encoder in model.encoders.items() if name not in chosen}


def steady_transforms(encoders: Mapping[str, Any], given: Mapping[str, Transform]) -> dict[str, Any]:
    """The transform of each encoder in training, or the given one; ValueError if one is random."""
    require_known_names("cache_features(transforms=...)", given, encoders, "modality")
    chosen = {name: given.get(name) or encoder.transform(train=True) for name, encoder in encoders.items()}
    require_transforms(chosen)
    for name, transform in chosen.items():
        if transform.random:
            raise ValueError(
                f"The transform of {name!r} ({type(transform).__name__}) is random: each epoch would see other "
                "features. Expected one that gives the same every time. To train without its random changes give "
                f"transforms={{{name!r}: model.encoders[{name!r}].transform(train=False)}}; or leave {name!r} out of "
                "modalities."
            )
    return chosen


def modalities_read_as_tokens(model: MultimodalModel) -> set[str]:
    """The modalities of which some answer, or some penalty, depends on the tokens, and not on the pooled vector alone.

    The fusion is asked, not looked at: whether a gradient can flow from what it gives to the tokens.
    """
    like = next((p for p in [*model.fusion.parameters(), *model.tasks.parameters()]), torch.zeros(()))
    features = {name: _made_up(dim, like) for name, dim in dims_of(model.encoders).items()}
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            given = features if model.missing is None else model.missing(features)
            fused = model.fusion(given)
            answers = [task(fused.features) for task in model.tasks.values()]
    finally:
        for part, mode in modes.items():
            part.training = mode
    ends = [x for x in pytree.tree_leaves((answers, dict(fused.penalties))) if getattr(x, "requires_grad", False)]
    tokens = [part.tokens for part in features.values()]
    gradients = torch.autograd.grad([end.sum() for end in ends], tokens, allow_unused=True) if ends else [None] * 99
    return {name for name, gradient in zip(features, gradients, strict=False) if gradient is not None}


def _why_not(encoder: nn.Module) -> str:
    if learning := _learning(encoder):
        return f"{len(learning)} of its parameters learn"
    return "not asked for" if any(True for _ in encoder.parameters()) else "it has no parameters"


def _learning(encoder: nn.Module) -> list[str]:
    return [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]


def _made_up(dim: int, like: Any) -> Features:
    tokens = torch.randn(2, 3, dim, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
    mask = torch.ones(2, 3, dtype=torch.bool, device=like.device)
    return Features(tokens.requires_grad_(), mask, tokens.detach().mean(dim=1).requires_grad_())
