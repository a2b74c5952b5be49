"""Round an encoder: it runs on the samples that have the modality, and on no others: Input -> Features."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.encoders._around import AroundEncoder


@recorded
class SkipAbsent(AroundEncoder):
    """Gather the samples that are present, encode them, scatter the features back.

    What is real comes out as without it, gradients included, as long as the encoder treats each sample by itself;
    time and memory shrink with the share of samples that lack the modality. Steps that are padding in all of the
    chosen samples are cut off too (only where the input has a mask), so there may be fewer padded tokens. Worth it
    from some tenths of absence on: to learn which rows are there, it waits for the device, twice in a call with a mask.

    A batch in which no sample has the modality runs on a row of zeros, which comes out absent and counts for nothing:
    the parameters get gradients of zero, not none, as every process of DDP and FSDP has to run the same modules. In
    training at least two rows run, since BatchNorm needs them: a lone sample takes an absent one with it. Statistics
    of BatchNorm are those of the present samples (SyncBatchNorm counts the zeros of a process that has none). Dropout
    draws other numbers. Inside ``torch.compile`` and ``torch.export`` the number of rows must not depend on values:
    there the encoder runs on all rows, to the same result.

    It has the ``dim``, ``transform``, ``pretrained`` and ``backbone`` of the encoder, and freezing is the encoder's.

    Args:
        encoder: ``Input -> Features``, with ``dim``.
    """

    encoder: Any

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module) or not hasattr(encoder, "dim"):
            raise TypeError(
                f"SkipAbsent got a {type(encoder).__name__}. Expected an encoder: a module with the width of its "
                "features as dim. Build it first: SkipAbsent(ViTEncoder.preset('tiny'))."
            )
        self.encoder = encoder

    @property
    def _inner(self) -> Any:
        return self.encoder

    def transform(self, train: bool = False) -> Any:
        """From a cell of a table to what ``forward`` takes, as the encoder says."""
        return self.encoder.transform(train)

    def forward(self, input: Input) -> Features:
        if torch.compiler.is_compiling():
            return self.encoder(input)
        count, batch = int(input.present.sum()), len(input.present)
        if count == batch:
            return self.encoder(_without_padding(input))
        least = min(batch, 2 if self.training else 1)  # BatchNorm cannot train on a single row
        rows = (~input.present).to(torch.uint8).argsort(stable=True)[: max(count, least)]  # the present ones first
        few: Features = self.encoder(_without_padding(_rows(input, rows)) if count else _rows(input, rows).zeroed())
        return Features(*(_scattered(part, rows, input) for part in (few.tokens, few.mask, few.pooled)))


def _rows(input: Input, rows: Int[Tensor, " few"]) -> Input:
    mask = None if input.mask is None else input.mask[rows]
    return Input(input.values[rows], input.present[rows], mask)


def _without_padding(input: Input) -> Input:
    """The input without the steps at its end that are real in no sample; at least one step stays."""
    if input.mask is None:
        return input
    real, steps = (input.mask & input.present[:, None]).any(dim=0), input.mask.shape[1]
    length = max(1, int((real * torch.arange(1, steps + 1, device=real.device)).max()))
    if length == steps:
        return input
    return Input(input.values[:, :length], input.present, input.mask[:, :length])


def _scattered(part: Tensor, rows: Int[Tensor, " few"], input: Input) -> Tensor:
    """Some rows at their places among all; zeros, or False, in the others."""
    return part.new_zeros(len(input.present), *part.shape[1:]).index_copy(0, rows, part)
