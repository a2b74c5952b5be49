"""Waveforms through a log-mel spectrogram and a small CNN of our own: (batch, time) -> Features."""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import (
    require_axes,
    require_count,
    require_not_negative,
    require_positive,
    require_share,
    require_whole,
)
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.audio import AudioTransform
from mmfuse.encoders._backbone import require_preset
from mmfuse.encoders._inputs import real_lengths
from mmfuse.layers.checkpointing import run
from mmfuse.layers.masking import masked_mean, wide
from mmfuse.layers.positions import sinusoids
from mmfuse.layers.spec_augment import SpecAugment
from mmfuse.layers.transformer import SelfBlock

HEAD_DIM = 32  # width of one head of attention
PRESETS = {
    "tiny": {"dim": 64, "num_mels": 64, "num_layers": 0},
    "small": {"dim": 192, "num_mels": 80, "num_layers": 4},
}


@recorded
class SpectrogramEncoder(nn.Module):
    r"""Log-mel spectrogram, three convolutions over time, and transformer layers if asked for.

    .. math::
        s = \log(\mathrm{mel}\,|\mathrm{FFT}(w \cdot x)|^2 + 10^{-6}), \qquad
        \hat{s} = (s - \operatorname{mean} s) / \operatorname{std} s

    Takes waveforms ``(batch, time)``, mono, at ``rate_hz``, with a mask; padding stands at the end. Mean and standard
    deviation are those of the real frames of the clip, over time and mel, and what is no real frame is zeroed before
    every convolution: neither padding nor the other clips change the result. A clip shorter than one window
    counts as filled up with zeros to one window. One token stands for four frames (40 ms with the defaults).

    The layers are pre-norm transformer layers (Xiong et al., 2020, https://arxiv.org/abs/2002.04745). In training,
    SpecAugment (Park et al., 2019, https://arxiv.org/abs/1904.08779) hides two stretches of time and two bands of each
    spectrogram, if asked for: the paper takes up to 27 of 80 bands and a fifth of the time.

    Args:
        dim: width of the tokens; a multiple of 32 if there are transformer layers.
        rate_hz: sampling rate of the waveforms, in samples a second.
        num_mels: mel bands between 0 and ``rate_hz / 2``.
        window_ms: length of one frame, in milliseconds.
        hop_ms: from one frame to the next, in milliseconds.
        num_layers: transformer layers after the convolutions.
        dropout: dropout in the transformer layers, in training.
        hide_time: longest stretch that SpecAugment hides, as a share of the real frames.
        hide_mels: widest band that SpecAugment hides, in mel bands.
        checkpointing: recompute the activations of each transformer layer in the backward pass; less memory, more time.

    Raises:
        ValueError: if a number does not fit; in ``forward`` if the input is not ``(batch, time)``.
    """

    backbone: Any
    pretrained = False

    def __init__(  # noqa: PLR0913  numbers of the spectrogram, of the network and of its regularisation
        self,
        dim: int = 64,
        *,
        rate_hz: int = 16000,
        num_mels: int = 64,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        num_layers: int = 0,
        dropout: float = 0.0,
        hide_time: float = 0.0,
        hide_mels: int = 0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        require_count("SpectrogramEncoder", dim=dim, num_mels=num_mels)
        require_whole("SpectrogramEncoder", num_layers=num_layers)
        require_not_negative("SpectrogramEncoder", num_layers=num_layers)
        require_positive("SpectrogramEncoder", rate_hz=rate_hz, window_ms=window_ms, hop_ms=hop_ms)
        if num_layers and dim % HEAD_DIM:
            raise ValueError(
                f"SpectrogramEncoder cannot split dim={dim} into heads of {HEAD_DIM}. Expected a multiple of "
                f"{HEAD_DIM} where num_layers is above 0. Choose dim={-(-dim // HEAD_DIM) * HEAD_DIM} or num_layers=0."
            )
        self.dim, self.rate_hz = dim, rate_hz
        self.checkpointing = checkpointing
        self.window, self.hop = round(rate_hz * window_ms / 1000), round(rate_hz * hop_ms / 1000)
        self.taper: Tensor
        self.filters: Tensor
        self.register_buffer("taper", torch.hann_window(self.window), persistent=False)
        self.register_buffer("filters", _mel_filters(self.window, rate_hz, num_mels), persistent=False)
        require_share("SpectrogramEncoder", hide_time=hide_time)
        require_not_negative("SpectrogramEncoder", hide_mels=hide_mels)
        self.hide = SpecAugment(hide_time, hide_mels) if hide_time or hide_mels else None
        self.backbone = nn.ModuleDict(
            {
                "convs": nn.ModuleList([_Conv(num_mels, dim, 2), _Conv(dim, dim, 2), _Conv(dim, dim, 1)]),
                "layers": nn.ModuleList([SelfBlock(dim, dim // HEAD_DIM, dropout=dropout) for _ in range(num_layers)]),
            }
        )

    @classmethod
    def preset(cls, name: str = "tiny", **options: Any) -> "SpectrogramEncoder":
        """A small encoder: "tiny" (40 thousand parameters, no attention) or "small" (2 million, 4 layers)."""
        return cls(**require_preset("SpectrogramEncoder", name, PRESETS) | options)

    def forward(self, input: Input) -> Features:
        require_axes("SpectrogramEncoder input", input.values, ("batch", "time"), "Mix the channels down to one.")
        samples = F.pad(input.zeroed().values, (0, max(0, self.window - input.values.shape[1])))
        mask = self._frame_mask(input, (samples.shape[1] - self.window) // self.hop + 1)
        tokens = self._log_mel(samples, mask)  # (batch, time, mel)
        if self.hide is not None:
            tokens = self.hide(tokens, mask)
        for conv in self.backbone["convs"]:
            mask = mask[:, :: conv.stride]
            tokens = conv(tokens, mask)
        if len(self.backbone["layers"]):
            tokens = tokens + sinusoids(tokens.shape[1], tokens)
        for layer in self.backbone["layers"]:
            tokens = run(layer, tokens, mask, checkpointing=self.checkpointing).masked_fill(~mask[..., None], 0.0)
        return Features(tokens, mask, masked_mean(tokens, mask))

    def transform(self, train: bool = False) -> AudioTransform:  # noqa: ARG002 (no random changes to a clip)
        """From a sound file to what ``forward`` takes."""
        return AudioTransform(self.rate_hz, min_samples=self.window)

    def _frame_mask(self, input: Input, time: int) -> Bool[Tensor, "batch time"]:
        """Which frames are real: those that end before the clip does, and one for a clip that is shorter than that."""
        samples = real_lengths(input)
        frames = ((samples - self.window).div(self.hop, rounding_mode="floor") + 1).clamp_min(1) * (samples > 0)
        return torch.arange(time, device=samples.device) < frames[:, None]

    def _log_mel(
        self, samples: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch frame"]
    ) -> Float[Tensor, "batch frame mel"]:
        """Normalised log-mel energies, zero where no frame is real; in float32 under autocast too."""
        with torch.autocast(samples.device.type, enabled=False):
            frames = samples.float().unfold(1, self.window, self.hop) * wide(self.taper)
            waves = torch.fft.rfft(frames, _fft_size(self.window))
            power = waves.real.square() + waves.imag.square()
            normed = _normalized((power @ wide(self.filters) + 1e-6).log(), mask)
        return normed.to(self.filters.dtype)  # that of the weights


class _Conv(nn.Module):
    """Convolution over time that sees zeros where nothing is real, then normalisation of each frame by itself."""

    def __init__(self, channels: int, dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(channels, dim, kernel_size=3, stride=stride, padding=1)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, tokens: Float[Tensor, "batch before channel"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time dim"]:
        mixed = self.conv(tokens.transpose(1, 2)).transpose(1, 2)
        return F.gelu(self.norm(mixed)).masked_fill(~mask[..., None], 0.0)


def _normalized(
    values: Float[Tensor, "batch time mel"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time mel"]:
    """Zero mean and unit variance over the real frames of each clip; a silent clip becomes zeros."""
    real = mask[..., None]
    count = real.sum(dim=(1, 2), keepdim=True).clamp_min(1) * values.shape[-1]
    centred = (values - values.masked_fill(~real, 0.0).sum(dim=(1, 2), keepdim=True) / count).masked_fill(~real, 0.0)
    return centred * (centred.square().sum(dim=(1, 2), keepdim=True) / count + 1e-5).rsqrt()


def _fft_size(window: int) -> int:
    """The next power of two: fast, and fine enough for low mel bands."""
    return 2 ** (window - 1).bit_length()


def _mel_filters(window: int, rate_hz: int, num_mels: int) -> Float[Tensor, "bin mel"]:
    from torchaudio.functional import melscale_fbanks

    bins = _fft_size(window) // 2 + 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filterbank", UserWarning)  # an error of our own says it
        filters = melscale_fbanks(bins, 0.0, rate_hz / 2, num_mels, rate_hz)
    if empty := int((filters.amax(dim=0) == 0).sum()):
        raise ValueError(
            f"SpectrogramEncoder cannot fill {empty} of num_mels={num_mels} bands from a window of {window} samples. "
            "Expected bands that are wider than the resolution of the window. Use fewer bands or a longer window_ms."
        )
    return filters
