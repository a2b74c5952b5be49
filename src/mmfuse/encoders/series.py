"""Time series through a GRU or an LSTM: (batch, time, width) -> Features."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mmfuse._checks import require_choice
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.series import SeriesTransform
from mmfuse.encoders._series import real_steps, series_transform
from mmfuse.layers.masking import masked_mean
from mmfuse.layers.recurrent import Recurrent


@recorded
class SeriesEncoder(nn.Module):
    """GRU (Cho et al., 2014, https://arxiv.org/abs/1406.1078) or LSTM (Hochreiter and Schmidhuber, 1997) on a series.

    A token is the state at a step. The pooled vector is the mean of the real ones; with ``pool="last"`` it is where
    the recurrence ends: at the last real step, and backward at the first. Over some hundreds of steps the mean learns
    far better (UTD-MHAD, 180 steps, one GRU: 74 against 50 % of unseen people's actions). It equals packed sequences:
    neither padding nor other samples change it. It is made from the training table, so that the statistics of the
    training data are saved with the model::

        SeriesEncoder(64, **series_statistics(train, "inertial"))

    Under ``torch.compile`` each number of steps is a program of its own, as
    :class:`~mmfuse.layers.recurrent.Recurrent` says; ``TemporalConvEncoder`` and ``PatchSeriesEncoder`` have no such
    limit.

    Args:
        dim: width of the tokens.
        channels: how many channels a series has; needed.
        mean: of each channel in the training data, as ``SeriesTransform`` takes it; None: the series are taken as
            standardised already, and pass as they are.
        std: their standard deviations; None: 1.
        reading: the keywords of ``SeriesTransform`` that say how a cell is read, such as ``{"gaps": "keep"}``.
        cell: "gru" or "lstm".
        num_layers: layers of cells.
        bidirectional: read from both ends; ``dim`` must be even.
        pool: "mean" of the states, or the "last" one.
        dropout: between the layers, in training.

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
        cell: str = "gru",
        num_layers: int = 1,
        bidirectional: bool = False,
        pool: str = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_choice("SeriesEncoder", "pool", pool, ("mean", "last"))
        self.dim, self.pool = dim, pool
        self._transform = series_transform("SeriesEncoder", channels, mean, std, reading)
        self.recurrent = Recurrent(
            self._transform.width,
            dim,
            cell=cell,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
        )

    def forward(self, input: Input) -> Features:
        tokens, mask = real_steps("SeriesEncoder", input, self._transform.width, self.recurrent.dtype)
        tokens, last = self.recurrent(tokens, mask)
        return Features(tokens, mask, last if self.pool == "last" else masked_mean(tokens, mask))

    def transform(self, train: bool = False) -> SeriesTransform:  # noqa: ARG002 (see Augment for random changes)
        """From a cell of a table to what ``forward`` takes, with the statistics of the training data."""
        return self._transform
