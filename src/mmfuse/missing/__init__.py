"""Absent modalities: hidden, replaced or predicted.

``ModalityDropout`` and ``Placeholder``, and ``Chain`` of them, are ``{name: Features} -> {name: Features}`` and go into
``MultimodalModel(missing=...)``. ``Imputation`` and ``Ensure`` stand round a fusion: ``{name: Features} -> Fused``.
``hide`` takes modalities out of a batch, to see what a model does without them.
"""

from torch import nn

from mmfuse.missing.chain import Chain
from mmfuse.missing.ensure import Ensure
from mmfuse.missing.hide import hide
from mmfuse.missing.imputation import Imputation
from mmfuse.missing.modality_dropout import ModalityDropout
from mmfuse.missing.placeholder import Placeholder

MISSING: dict[str, type[nn.Module]] = {
    "Chain": Chain,
    "Ensure": Ensure,
    "Imputation": Imputation,
    "ModalityDropout": ModalityDropout,
    "Placeholder": Placeholder,
}

__all__ = ["MISSING", "Chain", "Ensure", "Imputation", "ModalityDropout", "Placeholder", "hide"]
