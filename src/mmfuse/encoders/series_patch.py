"""Time series through a transformer over patches of steps: (batch, time, width) -> Features."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mmfuse._checks import require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.series import SeriesTransform
from mmfuse.encoders._series import real_steps, series_transform
from mmfuse.layers.masking import masked_mean
from mmfuse.layers.sequence import SequenceTransformer


@recorded
class PatchSeriesEncoder(nn.Module):
    r"""PatchTST (Nie et al., 2023, https://arxiv.org/abs/2211.14730) with mixed channels.

    .. math::
        p_i = W\,[x_{si}, r_{si}, \dots, x_{si + P - 1}, r_{si + P - 1}] + b, \qquad
        Y = \operatorname{Transformer}(p_0, p_1, \dots)

    A token is a patch of :math:`P` steps, the next one begins :math:`s` steps later. A patch is real if it holds a real
    step that no earlier patch holds, so every step is read and none for the sake of padding. Steps of a patch that are
    not real are zeros with the flag :math:`r = 0`: a series that ends within a patch is told from one that goes on at
    its mean, and nothing else of them is read. The pooled vector is the mean of the real tokens.

    The paper runs the transformer on each channel by itself. Here one projection reads all channels of a patch: less
    time by the number of channels, and one sequence of tokens for the fusion. Also unlike the paper, positions are
    sinusoids, for there is no longest series; blocks are pre-norm; and the statistics are those of the training data
    instead of each series, whose level is often what counts.

    Args:
        dim: width of the tokens; a multiple of ``num_heads``.
        channels: how many channels a series has; needed.
        mean: of each channel in the training data; ``**series_statistics(train, column)`` gives the four of them.
            None: the series are taken as standardised already, and pass as they are.
        std: their standard deviations; None: 1.
        reading: the keywords of ``SeriesTransform`` that say how a cell is read.
        patch: steps in a patch.
        stride: steps from one patch to the next, at most ``patch``; None: half of ``patch``.
        num_layers: transformer blocks.
        num_heads: heads of attention.
        dropout: on both branches of each block, in training.
        checkpointing: recompute the activations of each block in the backward pass; less memory, more time.

    Raises:
        ValueError: if a number does not fit; in ``forward`` if the input is not what ``transform`` makes.
    """

    pretrained = False

    def __init__(  # noqa: PLR0913  channels, mean, std and reading come together from series_statistics
        self,
        dim: int,
        *,
        channels: int | None = None,
        mean: Sequence[int | float] | None = None,
        std: Sequence[int | float] | None = None,
        reading: Mapping[str, Any] | None = None,
        patch: int = 16,
        stride: int | None = None,
        num_layers: int = 3,
        num_heads: int = 4,
        dropout: float = 0.1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        stride = max(patch // 2, 1) if stride is None else stride
        require_positive("PatchSeriesEncoder", dim=dim, patch=patch, stride=stride)
        if stride > patch:
            raise ValueError(
                f"PatchSeriesEncoder got stride={stride} for patch={patch}. Expected at most {patch}, or steps between "
                f"the patches would never be read. Choose stride={max(patch // 2, 1)}."
            )
        self.dim, self.patch, self.stride = dim, patch, stride
        self._transform = series_transform("PatchSeriesEncoder", channels, mean, std, reading)
        self.embed = nn.Linear((self._transform.width + 1) * patch, dim)
        self.transformer = SequenceTransformer(
            dim, num_layers, num_heads=num_heads, dropout=dropout, checkpointing=checkpointing
        )

    def forward(self, input: Input) -> Features:
        steps, mask = real_steps("PatchSeriesEncoder", input, self._transform.width, self.embed.weight.dtype)
        flagged = torch.cat([steps, mask[..., None].to(steps.dtype)], dim=-1)
        # A patch more than may be needed; without it, their number would hang on the length by cases.
        patches = F.pad(flagged, (0, 0, 0, self.patch)).unfold(
            1, self.patch, self.stride
        )  # (batch, patch, width, step)
        real = patches[:, :, -1] > 0
        first = torch.arange(real.shape[1], device=real.device) == 0
        mask = torch.where(first, real.any(dim=-1), real[..., -self.stride :].any(dim=-1))  # (batch, patch)
        tokens = self.transformer(self.embed(patches.flatten(2)), mask)
        return Features(tokens, mask, masked_mean(tokens, mask))

    def transform(self, train: bool = False) -> SeriesTransform:  # noqa: ARG002 (see Augment for random changes)
        """From a cell of a table to what ``forward`` takes, with the statistics of the training data."""
        return self._transform
