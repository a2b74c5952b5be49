"""What a sample with nothing at all gives: round a fusion, {name: Features} -> Fused."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from mmfuse._checks import require_choice
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused


@recorded
class Ensure(nn.Module):
    """A fusion whose result for a sample without any modality is known: zeros, or an error.

    A fusion by itself gives some finite value there, which its docstring tells, with ``present`` False. With "zeros"
    tokens and pooled vector are exactly 0, so that a head answers with its bias. With "error" such a sample stops the
    program; to look costs a synchronisation with the device in every call. Inside ``torch.compile`` and
    ``torch.export`` there is no looking, and the sample gives zeros. On several processes an error on one leaves the
    others waiting: clean the data first.

    Args:
        fusion: ``{modality: Features} -> Fused``.
        empty: "zeros" or "error".

    Raises:
        ValueError: in ``forward``, with ``empty="error"``, naming the rows of the batch that have nothing.
    """

    def __init__(self, fusion: nn.Module, *, empty: str = "zeros") -> None:
        super().__init__()
        require_choice("Ensure", "empty", empty, ("zeros", "error"))
        self.fusion = fusion
        self.empty = empty

    def forward(self, features: Mapping[str, Features]) -> Fused:
        fused: Fused = self.fusion(features)
        if self.empty == "error" and not torch.compiler.is_compiling():
            _require_something(fused.features.present)
        return replace(fused, features=fused.features.zeroed())


def _require_something(present: Bool[Tensor, " batch"]) -> None:
    if not present.all():
        rows = (~present).nonzero().flatten().tolist()
        raise ValueError(
            f"{len(rows)} of {len(present)} samples have no modality at all: rows {rows[:10]}"
            f"{'...' * (len(rows) > 10)} of the batch. Expected at least one modality in each sample. "
            "Remove them from the data, or use Ensure(fusion, empty='zeros')."
        )
