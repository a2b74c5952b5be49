"""Stretches of time and of frequency hidden at random, in training: (batch, time, mel) -> the same."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_not_negative, require_share


class SpecAugment(nn.Module):
    r"""Zero ``count`` stretches of time and ``count`` bands of each spectrogram (Park et al., 2019, section 2).

    .. math:: t \sim U(0, p\,\tau), \quad t_0 \sim U(0, \tau - t), \qquad f \sim U(0, F), \quad f_0 \sim U(0, \nu - f)

    with the number of real frames of the clip :math:`\tau` and of bands :math:`\nu`, so that padding changes nothing.
    Zero is the mean of a normalised spectrogram. Nothing is hidden in evaluation. No warping of time.

    https://arxiv.org/abs/1904.08779

    Args:
        share: longest stretch of time, as a share of the real frames (p).
        bands: widest band, in mel bands (F).
        count: stretches, and bands, of each clip.
    """

    def __init__(self, share: float, bands: int, *, count: int = 2) -> None:
        super().__init__()
        require_share("SpecAugment", share=share)
        require_not_negative("SpecAugment", bands=bands, count=count)
        self.share, self.bands, self.count = share, bands, count

    def forward(
        self, values: Float[Tensor, "batch time mel"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time mel"]:
        if not self.training:
            return values
        _, time, mel = values.shape
        frames = mask.sum(dim=1, keepdim=True).float()  # (batch, 1)
        hidden_time = self._stretches(frames, self.share * frames, time)
        every = torch.full_like(frames, mel)
        hidden_mel = self._stretches(every, torch.full_like(frames, min(self.bands, mel)), mel)
        return values.masked_fill(hidden_time[:, :, None] | hidden_mel[:, None, :], 0.0)

    def _stretches(
        self, length: Float[Tensor, "batch 1"], longest: Float[Tensor, "batch 1"], size: int
    ) -> Bool[Tensor, "batch size"]:
        """Which of ``size`` places are hidden in each row: stretches of up to ``longest`` within ``length``."""
        draw = torch.rand(2, len(length), self.count, device=length.device)
        width = (draw[0] * (longest + 1)).floor().minimum(longest.floor())  # (batch, count)
        start = (draw[1] * (length - width + 1)).floor().minimum(length - width)
        place = torch.arange(size, device=length.device)[:, None]
        inside = (place >= start[:, None]) & (place < (start + width)[:, None])  # (batch, size, count)
        return inside.any(dim=-1)
