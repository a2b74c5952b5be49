"""Transformer layers of equal shape side by side: one matrix product for all, where inputs are of equal lengths."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse.layers.attention import scaled_dot_product
from mmfuse.layers.masking import real_only

Affine = tuple[Tensor, Tensor]  # weight: (layer, width, dim), bias: (layer, 1, dim)


class Keys(NamedTuple):
    """What some sequences, side by side, have to be read."""

    key: Float[Tensor, "sequence batch head time width"]
    value: Float[Tensor, "sequence batch head time width"]
    bias: Float[Tensor, "sequence batch 1 time"]  # what to add to scores
    real: Float[Tensor, "sequence batch 1 1"]  # 0 where nothing is, else 1


class StackedLinear(nn.Module):
    """``count`` linear layers, each for a slice of its own of the input.

    The biases are one flat vector, because optimizers that do not decay vectors would decay a matrix of them.

    Args:
        count: layers.
        width: of their inputs.
        dim: of their outputs.
    """

    def __init__(self, count: int, width: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width, dim).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.empty(count * dim).uniform_(-(width**-0.5), width**-0.5))

    def parts(self, groups: int) -> list[Affine]:
        """The layers in groups of equal size, for inputs that have equal shapes only within a group."""
        bias = self.bias.view(len(self.weight), 1, -1)
        return list(zip(self.weight.chunk(groups), bias.chunk(groups), strict=True))


class StackedLayer(nn.Module):
    r"""``count`` pre-norm transformer layers, each for a sequence of its own that reads keys of its own.

    .. math:: Y = X + \operatorname{Attn}(\operatorname{LN}(X), K, V), \qquad
              Z = Y + W_2 \operatorname{ReLU}(W_1 \operatorname{LN}(Y) + b_1) + b_2

    The norms have no weights, because the linear maps behind them have. Where there is nothing to read, Y is X.

    Args:
        count: layers.
        dim: width of the tokens; a multiple of ``num_heads``.
        num_heads: attention heads.
        dropout: on both branches.
    """

    def __init__(self, count: int, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = StackedLinear(count, dim, dim)
        self.out = StackedLinear(count, dim, dim)
        self.up = StackedLinear(count, dim, 4 * dim)
        self.down = StackedLinear(count, 4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Sequence[Tensor], normed: Sequence[Tensor], keys: Sequence[Sequence[Keys]]
    ) -> list[Tensor]:
        """The tokens (sequence, batch, time, dim) of each group, having read the keys of its sequences."""
        layers = (self.query, self.out, self.up, self.down)
        parts = zip(*(layer.parts(len(tokens)) for layer in layers), strict=True)
        return [self._one_group(*given) for given in zip(tokens, normed, keys, parts, strict=True)]

    def _one_group(self, x: Tensor, normed: Tensor, keys: Sequence[Keys], parts: tuple[Affine, ...]) -> Tensor:
        query, out, up, down = parts
        read = affine(_attend(affine(normed, query), keys, self.num_heads), out)
        real = keys[0].real if len(keys) == 1 else torch.cat([part.real for part in keys])
        x = x + self.dropout(real_only(read, real))
        return x + self.dropout(affine(affine(norm(x), up).relu(), down))


def affine(x: Float[Tensor, "layer *rows width"], layers: Affine) -> Float[Tensor, "layer *rows dim"]:
    """Each slice of the input through its linear layer."""
    weight, bias = layers
    return torch.baddbmm(bias, x.flatten(1, -2), weight).unflatten(1, x.shape[1:-1])


def norm(x: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
    """Layer normalisation without weights."""
    return F.layer_norm(x, x.shape[-1:])


def reading(
    mask: Bool[Tensor, "batch time"], dtype: torch.dtype
) -> tuple[Float[Tensor, "batch 1 time"], Float[Tensor, "batch 1 1"]]:
    """The ``bias`` and ``real`` of the keys of one sequence: made once, for all layers that read it."""
    real = mask.any(dim=1)[:, None, None]
    # A row without keys reads everything and is zeroed after: every backend of attention agrees on that.
    skip = ~(mask[:, None] | ~real)
    return torch.zeros_like(skip, dtype=dtype).masked_fill(skip, -torch.inf), real.to(dtype)


def split_keys(
    projected: Float[Tensor, "sequence batch time layers_2_dim"],
    num_layers: int,
    num_heads: int,
    may: Sequence[tuple[Tensor, Tensor]],
) -> list[Keys]:
    """The keys for each layer, from one projection for all; ``may``: the :func:`reading` of each sequence."""
    heads = projected.unflatten(-1, (num_layers, 2, num_heads, -1)).permute(3, 4, 0, 1, 5, 2, 6)
    bias, real = (side_by_side(part) for part in zip(*may, strict=True))
    return [Keys(k, v, bias, real) for k, v in heads.unbind(0)]


def side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor of several of equal shape, without a copy if there is only one."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def _attend(queries: Tensor, keys: Sequence[Keys], num_heads: int) -> Tensor:
    """Each part of the queries (sequence, batch, time, dim) reads its keys."""
    heads = queries.unflatten(-1, (num_heads, -1)).transpose(2, 3)
    read = []
    for part, (key, value, bias, _) in zip(heads.chunk(len(keys)), keys, strict=True):
        q, k, v = (x.flatten(0, 1) for x in (part, key, value))
        found = scaled_dot_product(q, k, v, bias.flatten(0, 1)[:, None])  # (sequence * batch, head, time, dim/head)
        read.append(found.transpose(1, 2).flatten(2).unflatten(0, part.shape[:2]))
    return read[0] if len(read) == 1 else torch.cat(read)
