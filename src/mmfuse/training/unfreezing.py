"""Encoders that are trained only from some epoch on, all at once or layer by layer from the top."""

import itertools
from collections.abc import Mapping
from typing import Any

from torch import nn

from mmfuse._checks import is_number, require_known_names
from mmfuse.encoders.stages import backbone_of, is_frozen, stages_of
from mmfuse.model import MultimodalModel

Plan = Mapping[str, int | Mapping[int, int | str]]


class Unfreezing:
    """Freezes the backbones of encoders until their epochs begin.

    What is frozen is a function of the epoch alone, so that a run that is resumed goes on as it would have. Make it
    after optimizer and moving average: they hold the parameters from the beginning. Without a gradient an optimizer
    neither moves nor decays them, and has no state for them. What is frozen for good (``freeze=2``) stays frozen, and
    new layers of an encoder, such as the transformer over the frames of a video, are trained from the beginning.

    Layer by layer from the top: Howard and Ruder, 2018, https://arxiv.org/abs/1801.06146

    Args:
        model: whose encoders it freezes.
        plan: for each modality the epoch, counted from 1, from which its backbone is trained: ``{"text": 3}``. Or how
            many of its highest stages are trained from which epoch on: ``{"text": {2: 1, 3: 4, 5: "all"}}``. Stages
            are the layers, and below them what stands before the layers.
    """

    def __init__(self, model: MultimodalModel, plan: Plan | None = None) -> None:
        plan = plan or {}
        require_known_names("unfreeze", plan, model.encoders, "modality")
        self._plan = {name: _steps(name, given, stages_of(model.encoders[name])) for name, given in plan.items()}
        self._stages = {name: _trained_by_stage(model.encoders[name]) for name in plan}
        for name, stages in self._stages.items():
            if not any(stages):
                raise ValueError(
                    f"unfreeze: the encoder of {name!r} is frozen for good, so no epoch trains it. Expected one that "
                    'is trainable: until its epoch it is frozen here. Build it without freeze="all" and leave '
                    "requires_grad as it is, or take it out of unfreeze."
                )

    def apply(self, epoch: int) -> bool:
        """Freeze what is not trained yet in this epoch, and no more than that.

        Returns:
            Whether it changed anything. Then DistributedDataParallel has to be made anew: it knows only the
            parameters that were trained when it was made.
        """
        changed = False
        for name, stages in self._stages.items():
            reached = [count for first, count in self._plan[name].items() if first <= epoch]
            lowest = len(stages) - 1 - max(reached) if reached else len(stages)
            for i, stage in enumerate(stages):
                for parameter in stage:
                    changed |= parameter.requires_grad is not (i >= lowest)
                    parameter.requires_grad_(i >= lowest)
        return changed

    def unreached(self, epochs: int) -> list[str]:
        """The modalities of whose plan a part is for later epochs than there are."""
        return [name for name, steps in self._plan.items() if max(steps) > epochs]

    def undo(self) -> None:
        """Let everything be trained again that was trained before, also after an error: else it would stay frozen."""
        for stages in self._stages.values():
            for parameter in itertools.chain(*stages):
                parameter.requires_grad_(True)


def set_training(model: MultimodalModel) -> None:
    """Set a model to training, except encoders of which nothing is trained: no dropout, and statistics that stay.

    So the features of a frozen encoder are the same in every epoch, and the same as cached ones.
    """
    model.train()
    for encoder in model.encoders.values():
        if is_frozen([backbone_of(encoder)]):
            backbone_of(encoder).eval()


def _trained_by_stage(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """The trainable parameters of each stage, lowest first, and at the end of what stands above them."""
    stages = [[p for part in parts for p in part.parameters()] for parts in stages_of(encoder)]
    below = {id(parameter) for stage in stages for parameter in stage}
    above = [p for p in backbone_of(encoder).parameters() if id(p) not in below]
    return [[parameter for parameter in stage if parameter.requires_grad] for stage in (*stages, above)]


def _steps(name: str, given: int | Mapping[int, int | str], stages: list[Any]) -> dict[int, int]:
    """How many of the highest stages are trained from which epoch on."""
    epochs = list(given) if isinstance(given, Mapping) else [given]
    for epoch in epochs:
        if not is_number(epoch) or not hasattr(epoch, "__index__") or epoch < 1:
            raise (ValueError if is_number(epoch) else TypeError)(
                f"unfreeze got the epoch {epoch!r} for {name!r}. Expected a whole number from 1 up, or how many of its "
                f"stages are trained from which epoch on. Write {{{name!r}: 3}} or {{{name!r}: {{1: 1, 4: 'all'}}}}."
            )
    steps = given if isinstance(given, Mapping) else {given: "all"}
    for count in steps.values():
        if count != "all" and not (isinstance(count, int) and 0 < count <= len(stages)):
            raise ValueError(
                f"unfreeze got {count!r} stages of {name!r}. Expected 'all', or a number from 1 to {len(stages)}: so "
                "many of its stages, highest first. Try 'all'."
            )
    return {epoch: len(stages) if count == "all" else int(count) for epoch, count in steps.items()}
