"""Which parameter learns how fast: groups, AdamW, warm-up and cosine."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mmfuse._checks import require_positive
from mmfuse.encoders.stages import backbone_of, stages_of
from mmfuse.model import MultimodalModel


def parameter_groups(
    model: MultimodalModel,
    weigh: nn.Module | None = None,
    *,
    learning_rate: float = 1e-3,
    pretrained_learning_rate: float | None = None,
    weight_decay: float = 0.01,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """The trainable parameters of model and weighting, each in one group.

    Weights of pretrained encoders learn with ``pretrained_learning_rate`` (a tenth of ``learning_rate`` if None), and
    each of their layers ``layer_decay`` times as fast as the one above it; the embeddings are the lowest (Clark et al.,
    2020, https://arxiv.org/abs/2003.10555). Biases, norms and other vectors and scalars are not decayed. Layers of
    several encoders that stand equally deep share a group: few groups are few kernels.
    """
    require_positive("parameter_groups", learning_rate=learning_rate)
    slow = learning_rate / 10 if pretrained_learning_rate is None else pretrained_learning_rate
    if min(slow, weight_decay) < 0:
        raise ValueError(
            f"parameter_groups got pretrained_learning_rate={slow} and weight_decay={weight_decay}. Expected numbers "
            "from 0 up. Use 0 for no decay, and freeze what should not learn."
        )
    if not 0 < layer_decay <= 1:
        raise ValueError(
            f"parameter_groups got layer_decay={layer_decay}. Expected a number above 0, up to 1. Try 0.9."
        )
    depths = _depths(model)
    groups: dict[str, dict[str, Any]] = {}
    for parameter in _trainable([model, weigh]):
        depth = depths.get(id(parameter))
        decayed = parameter.dim() > 1
        kind = "new" if depth is None else "pretrained"
        if depth and layer_decay != 1:
            kind += f" {depth} below the top"
        group = groups.setdefault(
            f"{kind}, {'decayed' if decayed else 'not decayed'}",
            {
                "params": [],
                "lr": learning_rate if depth is None else slow * layer_decay**depth,
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items()]


def check_partition(groups: Iterable[dict[str, Any]], modules: Sequence[nn.Module | None]) -> None:
    """Raise ValueError unless every trainable parameter of ``modules`` is in exactly one group, and nothing else is."""
    names = {id(p): name for m in modules if m is not None for name, p in m.named_parameters() if p.requires_grad}
    given = [id(parameter) for group in groups for parameter in group["params"]]
    forgotten = [name for key, name in names.items() if key not in set(given)]
    twice = sorted({names.get(key, "a parameter") for key in given if given.count(key) > 1})
    foreign = len(set(given) - set(names))
    if forgotten or twice or foreign:
        raise ValueError(
            f"The optimizer's groups forget {forgotten[:5]}{'...' * (len(forgotten) > 5)}, hold {twice[:5]} twice and "
            f"{foreign} that do not belong to model or weighting, or are frozen. Expected each trainable parameter "
            "once. Make the groups with parameter_groups(model, weigh), after freezing."
        )


def make_optimizer(groups: Sequence[dict[str, Any]]) -> Optimizer:
    """AdamW over some groups, in as few kernels as the device allows."""
    if not groups:
        raise ValueError("Nothing in this model is trainable. Expected a parameter that requires grad. Unfreeze some.")
    return AdamW(groups, fused=all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"]))


def warmup_cosine(optimizer: Optimizer, *, steps: int, warmup: float = 0.1) -> LambdaLR:
    """Every group's learning rate: up in a line for the first steps, then down to zero along a cosine.

    Args:
        optimizer: whose rates are the highest.
        steps: optimizer steps in all.
        warmup: share of them that goes up.
    """
    require_positive("warmup_cosine", steps=steps)
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup_cosine got warmup={warmup}. Expected a share from 0 to below 1. Try 0.1.")
    rising = round(warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising)))

    return LambdaLR(optimizer, factor)


def renew_rates(optimizer: Optimizer, schedule: LambdaLR) -> None:
    """Set the rates to what the schedule says now: for a run that goes on for more epochs than it began with."""
    for group, highest, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = highest * factor(schedule.last_epoch)


def _depths(model: MultimodalModel) -> dict[int, int]:
    """How many stages stand above each parameter of a pretrained backbone; 0 in the highest and above all stages."""
    depths: dict[int, int] = {}
    for encoder in model.encoders.values():
        if getattr(encoder, "pretrained", False):
            depths |= {id(parameter): 0 for parameter in backbone_of(encoder).parameters()}
            for depth, parts in enumerate(reversed(stages_of(encoder))):
                depths |= {id(parameter): depth for part in parts for parameter in part.parameters()}
    return depths


def _trainable(modules: Sequence[nn.Module | None]) -> list[torch.nn.Parameter]:
    """Every trainable parameter once, also where modules share it."""
    every = (parameter for module in modules if module is not None for parameter in module.parameters())
    return list({id(parameter): parameter for parameter in every if parameter.requires_grad}.values())


def rate_of(optimizer: Optimizer) -> float:
    """The learning rate of the new parameters, or of all if none is new."""
    groups = optimizer.param_groups
    return next((group["lr"] for group in groups if group["name"].startswith("new")), groups[0]["lr"])
