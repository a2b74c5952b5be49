"""Random changes to the ids of a text (time,), for Augment."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from mmfuse._checks import require_share
from mmfuse._record import recorded


@recorded
class TokenDropout:
    """Leave out each id with the same chance: ``TokenDropout(0.1, keep=tokenizer.all_special_ids)``.

    At least one id stays.

    Args:
        share: chance of each id to go.
        keep: ids that stay, such as those of ``[CLS]`` and ``[SEP]``.
        replace: id that stands in for what is dropped (that of ``[MASK]`` for example); None: the text gets shorter.
    """

    def __init__(self, share: float, keep: Sequence[int] = (), *, replace: int | None = None) -> None:
        require_share("TokenDropout", share=share)
        self.share = share
        self.keep = [int(token) for token in keep]
        self.replace = replace

    def __call__(self, ids: Int[Tensor, " time"]) -> Int[Tensor, " less"]:
        special = torch.isin(ids, torch.tensor(self.keep, dtype=ids.dtype))
        stays = special | (torch.rand(len(ids)) >= self.share)
        if self.replace is not None:
            return ids.masked_fill(~stays, self.replace)
        return ids[stays] if stays.any() else ids[:1]
