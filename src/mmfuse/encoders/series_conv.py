"""Time series through dilated convolutions: (batch, time, width) -> Features."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.series import SeriesTransform
from mmfuse.encoders._series import real_steps, series_transform
from mmfuse.layers.masking import masked_mean


@recorded
class TemporalConvEncoder(nn.Module):
    r"""Temporal convolutional network (Bai et al., 2018, https://arxiv.org/abs/1803.01271): dilated residual blocks.

    .. math::
        F(x)_t = \operatorname{GELU} \operatorname{LN} \sum_{i} W_i\, x_{t + d (i - c)}, \qquad
        x^{l} = x^{l-1} + F_2(F_1(x^{l-1})), \qquad d = 2^{l-1}

    A token sees :math:`2 (k - 1) (2^L - 1) + 1` steps, :math:`k` taps in :math:`L` blocks: half of them before it and
    half after it (:math:`c = (k - 1) / 2`), or, as in the paper, all before it (``causal``, :math:`c = k - 1`). The
    pooled vector is the mean of the real tokens. What is not real is zero before every convolution, and the norm is
    over the channels of one step (the paper normalises weights), so padding changes nothing. Also unlike the paper,
    nothing bends the sum with the shortcut.

    Args:
        dim: width of the tokens.
        channels: how many channels a series has; needed.
        mean: of each channel in the training data; ``**series_statistics(train, column)`` gives the four of them.
            None: the series are taken as standardised already, and pass as they are.
        std: their standard deviations; None: 1.
        reading: the keywords of ``SeriesTransform`` that say how a cell is read.
        num_layers: blocks, each twice as wide in time as the one before.
        kernel: taps of a convolution; odd, unless causal.
        downsample: one token for so many steps: the first convolution takes strides.
        causal: a token reads nothing that comes after its own steps.
        dropout: after each convolution, in training.

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
        num_layers: int = 5,
        kernel: int = 3,
        downsample: int = 1,
        causal: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_positive("TemporalConvEncoder", dim=dim, num_layers=num_layers, kernel=kernel, downsample=downsample)
        require_share("TemporalConvEncoder", dropout=dropout)
        if not causal and kernel % 2 == 0:
            raise ValueError(
                f"TemporalConvEncoder got kernel={kernel}. Expected an odd number of taps, as many before a step as "
                f"after it. Choose kernel={kernel + 1}, or causal=True."
            )
        self.dim, self.downsample = dim, downsample
        self._transform = series_transform("TemporalConvEncoder", channels, mean, std, reading)
        # Its own steps and as many before them, less one: causal by itself.
        self.first = _Conv(self._transform.width, dim, 2 * downsample - 1, stride=downsample)
        self.blocks = nn.ModuleList(
            _Block(dim, kernel, dilation=2**i, causal=causal, dropout=dropout) for i in range(num_layers)
        )

    def forward(self, input: Input) -> Features:
        steps, mask = real_steps("TemporalConvEncoder", input, self._transform.width, self.first.conv.weight.dtype)
        tokens = self.first(steps)  # (batch, time / downsample, dim)
        own = torch.arange(tokens.shape[1] * self.downsample, device=mask.device).unflatten(0, (-1, self.downsample))
        mask = F.pad(mask, (0, self.downsample - 1))[:, own].any(dim=-1)
        tokens = torch.where(mask[..., None], tokens, 0.0)
        for block in self.blocks:
            tokens = block(tokens, mask)
        return Features(tokens, mask, masked_mean(tokens, mask))

    def transform(self, train: bool = False) -> SeriesTransform:  # noqa: ARG002 (see Augment for random changes)
        """From a cell of a table to what ``forward`` takes, with the statistics of the training data."""
        return self._transform


class _Block(nn.Module):
    """Two convolutions beside a shortcut; zeros in and out where nothing is real."""

    def __init__(self, dim: int, kernel: int, *, dilation: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_Conv(dim, dim, kernel, dilation=dilation, causal=causal) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time dim"]:
        read = tokens
        for conv, norm in zip(self.convs, self.norms, strict=True):
            read = torch.where(mask[..., None], self.dropout(F.gelu(norm(conv(read)))), 0.0)
        return tokens + read


class _Conv(nn.Module):
    """Convolution over time that keeps the number of steps, but for its strides."""

    def __init__(
        self, width: int, dim: int, kernel: int, *, dilation: int = 1, stride: int = 1, causal: bool = False
    ) -> None:
        super().__init__()
        reach = (kernel - 1) * dilation
        self.pad = (reach, 0) if causal else (reach // 2, reach // 2)
        self.conv = nn.Conv1d(width, dim, kernel, stride=stride, dilation=dilation)

    def forward(self, steps: Float[Tensor, "batch before width"]) -> Float[Tensor, "batch time dim"]:
        return self.conv(F.pad(steps.transpose(1, 2), self.pad)).transpose(1, 2)
