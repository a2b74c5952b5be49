"""Long recordings in windows, through an encoder of short ones: (batch, time) -> Features."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn

from mmfuse._checks import require_axes, require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.encoders._around import AroundEncoder
from mmfuse.encoders._inputs import real_lengths
from mmfuse.encoders.skip_absent import SkipAbsent
from mmfuse.layers.masking import masked_mean
from mmfuse.layers.sequence import SequenceTransformer


@recorded
class Windowed(AroundEncoder):
    r"""Cut each waveform into windows, encode each by itself, and let a transformer read one token a window.

    .. math:: x^k = \operatorname{pool}(\operatorname{encoder}(s_{a_k : a_k + w})), \qquad
              a_k = \min(k h, \max(n - w, 0)), \qquad Y = \operatorname{Transformer}(x^0, \dots, x^{K-1})

    Time and memory grow with the length, not with its square. The last window ends with the clip of :math:`n` samples,
    so that every window is full, except that a clip shorter than one is its own only window; :math:`K = 1 + \lceil
    \max(n - w, 0) / h \rceil`. ``pooled`` is the mean of the windows. Padding changes nothing, and windows that are not
    real do not run (see :class:`SkipAbsent`, whose limits hold here too).

    Pappagari et al., 2019, https://arxiv.org/abs/1910.10781, classify long documents and calls in this way.

    Args:
        encoder: of mono waveforms ``(batch, time)``, with ``dim`` and ``rate_hz``, such as ``SpeechEncoder``.
        seconds: length of a window.
        hop: from one window to the next, in seconds; ``seconds`` if None: they do not overlap.
        num_layers: transformer layers over the windows; 0: positions and a norm alone.
        num_heads: heads of attention over the windows; must divide ``dim``.
        dropout: in the transformer over the windows, in training.

    Raises:
        TypeError: if the encoder has no ``dim`` or no ``rate_hz``.
        ValueError: for a hop above the window, which would leave out what lies between; in ``forward`` if the input is
            not ``(batch, time)``.
    """

    encoder: Any

    def __init__(
        self,
        encoder: Any,
        *,
        seconds: int | float = 10.0,
        hop: int | float | None = None,
        num_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module) or not hasattr(encoder, "dim") or not hasattr(encoder, "rate_hz"):
            raise TypeError(
                f"Windowed got a {type(encoder).__name__}. Expected an encoder of waveforms: a module with the width "
                "of its features as dim and its sampling rate as rate_hz. Set encoder.rate_hz = 16000 for example."
            )
        require_positive("Windowed", seconds=seconds, hop=seconds if hop is None else hop)
        rate_hz: Any = encoder.rate_hz
        self.window = max(1, round(seconds * rate_hz))
        self.hop = max(1, self.window if hop is None else round(hop * rate_hz))
        if self.hop > self.window:
            raise ValueError(
                f"Windowed got hop={hop} above seconds={seconds}. Expected a hop of at most one window, because what "
                f"lies between two windows would be left out. Choose hop={seconds} or None."
            )
        self.encoder = SkipAbsent(encoder)
        self.sequence = SequenceTransformer(self.dim, num_layers, num_heads=num_heads, dropout=dropout)

    @property
    def _inner(self) -> Any:
        return self.encoder

    def transform(self, train: bool = False) -> Any:
        """From a sound file to what ``forward`` takes, as the encoder says."""
        return self.encoder.transform(train)

    def forward(self, input: Input) -> Features:
        require_axes("Windowed input", input.values, ("batch", "time"), "Mix the channels down to one.")
        windows, real = self._cut(input)
        features = self.encoder(windows)
        tokens = features.pooled.unflatten(0, real.shape)  # (batch, window, dim)
        tokens = self.sequence(tokens, real)
        return Features(tokens, real, masked_mean(tokens, real))

    def _cut(self, input: Input) -> tuple[Input, Bool[Tensor, "batch window"]]:
        """All windows of all clips as one batch, and which of them are real."""
        samples, lengths = input.zeroed().values, real_lengths(input)
        most = -(-samples.shape[1] // self.hop)  # as many as any clip can have
        spare = (lengths - self.window).clamp_min(0)[:, None]  # where the last window starts: (batch, 1)
        places = torch.arange(most, device=samples.device) * self.hop
        real = (places < spare + self.hop) & (lengths > 0)[:, None]  # (batch, window)
        inside = torch.arange(self.window, device=samples.device)
        padded = F.pad(samples, (0, (most - 1) * self.hop + self.window - samples.shape[1]))
        last = padded.gather(1, spare + inside)[:, None]  # (batch, 1, sample)
        windows = torch.where((places >= spare)[..., None], last, padded.unfold(1, self.window, self.hop))
        mask = (inside < (lengths[:, None] - places.minimum(spare))[..., None]) & real[..., None]
        return Input(windows.flatten(0, 1), real.flatten(), mask.flatten(0, 1)), real
