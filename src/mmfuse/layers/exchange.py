"""Modalities that read each other's tokens, all at once, and the one vector that is read of them in the end."""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse.contracts import Features
from mmfuse.layers.attention import scaled_dot_product
from mmfuse.layers.masking import masked_mean, real_only

Tokens = dict[str, Float[Tensor, "batch _ dim"]]
Reading = dict[str, tuple[Float[Tensor, "batch 1 1 _"], Float[Tensor, "batch 1 1"]]]


def reading_of_others(masks: Mapping[str, Bool[Tensor, "batch _"]], dtype: torch.dtype) -> Reading:
    """For each modality, what to add to scores of the others' tokens, and 0 where there are none, else 1.

    Made once for all layers.
    """
    reading = {}
    for name in masks:
        others = [mask for other, mask in masks.items() if other != name]
        if not others:
            continue
        mask = torch.cat(others, dim=1)
        readable = mask.any(dim=1)[:, None, None]
        # A row without keys reads everything and is zeroed after: every backend of attention agrees on that.
        skip = ~(mask[:, None] | ~readable)[:, None]
        reading[name] = (torch.zeros_like(skip, dtype=dtype).masked_fill(skip, -torch.inf), readable.to(dtype))
    return reading


class Exchange(nn.Module):
    r"""Each modality reads the tokens of all the others, simultaneously.

    .. math:: Z_m \leftarrow Z_m + \operatorname{Attn}\bigl(Q_m, [K_n]_{n \ne m}, [V_n]_{n \ne m}\bigr) W_m, \qquad
              Q_m, K_m, V_m = \operatorname{LN}_m(Z_m)\, [W^Q_m, W^K_m, W^V_m]

    Keys and values are made once by the modality that they come from (as in ViLBERT), not by each that reads them.
    Where all the others are absent, a modality keeps its tokens. For two modalities or more.

    Args:
        names: of the modalities.
        dim: width of the tokens; a multiple of ``num_heads``.
        num_heads: attention heads.
        dropout: of what was read.
    """

    def __init__(self, names: Iterable[str], dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        names = list(names)
        self.num_heads = num_heads
        self.norm = nn.ModuleDict({name: nn.LayerNorm(dim) for name in names})
        self.query_key_value = nn.ModuleDict({name: nn.Linear(dim, 3 * dim) for name in names})
        self.out = nn.ModuleDict({name: nn.Linear(dim, dim) for name in names})
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tokens, reading: Reading) -> Tokens:
        queries, keys = {}, {}
        for name, x in tokens.items():
            heads = self.query_key_value[name](self.norm[name](x)).unflatten(-1, (3, self.num_heads, -1))
            queries[name], keys[name] = heads.split([1, 2], dim=2)  # (batch, time, 1 or 2, head, dim/head)
        result = {}
        for name, x in tokens.items():
            bias, readable = reading[name]
            others = torch.cat([both for other, both in keys.items() if other != name], dim=1)
            q, k, v = (part.transpose(1, 2) for part in (queries[name].squeeze(2), *others.unbind(2)))
            read = self.out[name](scaled_dot_product(q, k, v, bias).transpose(1, 2).flatten(2))
            result[name] = x + self.dropout(real_only(read, readable))
        return result


class MeanReadout(nn.Module):
    r"""Normalised tokens of all modalities, and :math:`h = W [z_1; \dots; z_M] + b` of their means.

    The :math:`z_m` of an absent modality is a learned vector.

    Args:
        names: of the modalities; their tokens come out in this order.
        dim: width of the tokens and of the vector.
    """

    def __init__(self, names: Iterable[str], dim: int) -> None:
        super().__init__()
        names = list(names)
        self.norm = nn.ModuleDict({name: nn.LayerNorm(dim) for name in names})
        self.absent = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(dim)) for name in names})
        self.mix = nn.Linear(len(names) * dim, dim)

    def forward(self, tokens: Tokens, masks: Mapping[str, Bool[Tensor, "batch _"]]) -> Features:
        tokens = {name: norm(tokens[name]) for name, norm in self.norm.items()}
        slots = [
            torch.where(masks[name].any(dim=1, keepdim=True), masked_mean(x, masks[name]), self.absent[name])
            for name, x in tokens.items()
        ]
        mask = torch.cat([masks[name] for name in tokens], dim=1)
        return Features(torch.cat(list(tokens.values()), dim=1), mask, self.mix(torch.cat(slots, dim=1)))
