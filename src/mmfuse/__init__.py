"""mmfuse: multimodal fusion models in plain PyTorch."""

from mmfuse._record import recorded
from mmfuse.contracts import Batch, Features, Fused, Input, Output, Target
from mmfuse.model import MultimodalModel, dims_of
from mmfuse.persistence import load, save

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Features",
    "Fused",
    "Input",
    "MultimodalModel",
    "Output",
    "Target",
    "dims_of",
    "load",
    "recorded",
    "save",
]
