"""A model that is all transformer, and batches of noise for it: what grows with what can be read off its sizes."""

from dataclasses import dataclass

import torch

from mmfuse import Batch, Input, MultimodalModel, Target, dims_of
from mmfuse.encoders import TransformerEncoder
from mmfuse.fusion import Concat
from mmfuse.tasks import Classification

CLASSES = 4


@dataclass(frozen=True)
class Size:
    """Of the model and of a batch."""

    modalities: int = 2
    layers: int = 6
    dim: int = 64
    samples: int = 8
    tokens: int = 64
    checkpointing: bool = False

    @property
    def block_bytes(self) -> int:
        """Of the parameters of all transformer layers in float32: 12 d^2 + 13 d each."""
        return 4 * self.modalities * self.layers * (12 * self.dim**2 + 13 * self.dim)

    @property
    def activation_bytes(self) -> int:
        """What the layers keep of a batch for the backward pass: 16 d numbers a token and layer (docs/scaling.md)."""
        return 4 * 16 * self.dim * self.modalities * self.layers * self.samples * self.tokens

    @property
    def products(self) -> int:
        """Floating-point operations of the layers in a step: 24 d^2 + 4 d T a token, and twice that backward."""
        token = 24 * self.dim**2 + 4 * self.dim * self.tokens
        return 3 * token * self.modalities * self.layers * self.samples * self.tokens


def make_model(size: Size) -> MultimodalModel:
    """One transformer for each modality, without dropout, and their pooled vectors side by side."""
    torch.manual_seed(0)
    encoders = {
        f"modality{number}": TransformerEncoder(
            size.dim, width=size.dim, num_layers=size.layers, dropout=0.0, checkpointing=size.checkpointing
        )
        for number in range(size.modalities)
    }
    return MultimodalModel(
        encoders, Concat(dims_of(encoders), size.dim, dropout=0.0), {"label": Classification(size.dim, CLASSES)}
    )


def make_batch(size: Size, seed: int = 0) -> Batch:
    """All samples have all modalities and labels."""
    torch.manual_seed(seed)
    present = torch.ones(size.samples, dtype=torch.bool)
    mask = present[:, None].expand(size.samples, size.tokens)
    inputs = {
        f"modality{number}": Input(torch.randn(size.samples, size.tokens, size.dim), present, mask)
        for number in range(size.modalities)
    }
    return Batch(inputs, {"label": Target(torch.randint(CLASSES, (size.samples,)), present)})
