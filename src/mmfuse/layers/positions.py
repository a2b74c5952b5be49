"""Positions in a sequence as vectors."""

import torch
from jaxtyping import Float
from torch import Tensor


def sinusoids(time: int, like: Float[Tensor, "*batch dim"]) -> Float[Tensor, "{time} dim"]:
    r"""Sines and cosines of each position (Vaswani et al., 2017, section 3.5), of the width and type of ``like``.

    .. math:: p_{t, 2i} = \sin(t / 10000^{2i/d}), \qquad p_{t, 2i+1} = \cos(t / 10000^{2i/d})
    """
    dim, dtype = like.shape[-1], torch.promote_types(like.dtype, torch.float32)  # 375 is no number in bfloat16
    places = torch.arange(time, device=like.device, dtype=dtype)
    rates = 10000.0 ** (-torch.arange(0, dim, 2, device=like.device, dtype=dtype) / dim)
    angles = places[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :dim].to(like.dtype)
