"""Makes modalities absent on purpose, to see what a model does without them."""

from collections.abc import Collection
from dataclasses import replace

import torch

from mmfuse._checks import require_kind, require_known_names
from mmfuse.contracts import Batch


def hide(batch: Batch, names: Collection[str]) -> Batch:
    """The same batch with some modalities absent in every sample."""
    if isinstance(names, str):
        names = [names]
    require_kind("hide", "names", names, Collection, "names of modalities. Give hide=['text']")
    require_known_names("hide", names, batch.inputs, "modality")
    hidden = {name: replace(batch.inputs[name], present=torch.zeros_like(batch.inputs[name].present)) for name in names}
    return replace(batch, inputs={**batch.inputs, **hidden})
