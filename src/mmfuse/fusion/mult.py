"""Fusion by the multimodal transformer: a stack of cross-attention for every ordered pair of modalities."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_known_names, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import require_heads
from mmfuse.layers.modalities import read_tokens
from mmfuse.layers.positions import sinusoids
from mmfuse.layers.stacked import Keys, StackedLayer, StackedLinear, affine, norm, reading, side_by_side, split_keys

Reading = tuple[Tensor, Tensor]  # see layers.stacked.reading


@recorded
class MulT(nn.Module):
    r"""For every ordered pair of modalities, a stack in which one reads the other; then self-attention.

    .. math::
        \hat Z_{n \to m}^{[i]} = Z_{n \to m}^{[i-1]} + \operatorname{Attn}^{[i]}_{n \to m}\bigl(
            \operatorname{LN}(Z_{n \to m}^{[i-1]}), \operatorname{LN}(Z_n)\bigr), \qquad
        h = W \bigl[\operatorname{last}\,\operatorname{Transformer}_m([Z_{n \to m}^{[D]}]_{n \ne m})\bigr]_m + b

    with

    .. math::
        Z_m = \operatorname{Conv}_m(X_m) + \mathrm{PE}, \qquad Z_{n \to m}^{[0]} = Z_m, \qquad
        Z_{n \to m}^{[i]} = \hat Z_{n \to m}^{[i]} +
            \operatorname{FFN}^{[i]}_{n \to m}(\operatorname{LN}(\hat Z_{n \to m}^{[i]}))

    Keys are the low-level tokens :math:`Z_n` in every layer. PE are sinusoids, FFN has one hidden layer of four times
    the width with ReLU, and "last" is the normalised last real token, as in the paper. Where we deviate: layers are
    pre-norm with plain residuals, as in the authors' code; norms have no weights, since the linear maps behind them
    have; the future is not masked; h is linear in the last tokens, because heads belong to tasks; padding is never
    read, and sequences may be of unequal lengths.

    Parameters of all streams of a layer are stacked, in the order (m, n) of ``dims``, m first: modalities of equal
    lengths run in one call. Keys and values of all layers are one matrix product, and in the last layer only the last
    token is computed, so ``Fused.features`` has one token.

    Source: Tsai et al. (2019), "Multimodal Transformer for Unaligned Multimodal Language Sequences",
    https://arxiv.org/abs/1906.00295, section 3.

    Reads: tokens.

    Absent: where n is absent, the stack m <- n reads nothing and goes on with the tokens of m. The last token of an
    absent m is a learned vector. A sample with nothing at all gets what the learned vectors give, present False. A
    single modality has no stacks: a transformer reads its tokens.

    Cost: parameters ``12 dim^2`` a layer for each of the M (M - 1) stacks, and ``12 (M - 1)^2 dim^2`` a layer for each
    of the M transformers behind them; time in the same proportions for each token, and ``T_m T_n dim`` for every pair.

    Use: for few, unaligned sequences (speech, face, words) at small widths (30 to 128). It grows with the square of M
    and more: for M > 3 or wide tokens use CoAttention, BottleneckFusion or SingleStream.

    Args:
        dims: width of each modality.
        dim: width of each stack and of the fused vector; a multiple of ``num_heads``.
        num_heads: attention heads.
        num_layers: layers of each stack, and of each transformer behind them.
        kernels: odd width of the temporal convolution in front, by modality; 1, a projection, where not given.
        dropout: on all branches.
    """

    reads = "tokens"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int,
        *,
        num_heads: int = 4,
        num_layers: int = 4,
        kernels: Mapping[str, int] | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_dims("MulT", dims, dim)
        require_positive("MulT", num_heads=num_heads, num_layers=num_layers)
        require_heads("MulT", dim, num_heads)
        require_share("MulT", dropout=dropout)
        _require_kernels(kernels or {}, dims)
        count, width = len(dims), max(len(dims) - 1, 1) * dim
        self.project = nn.ModuleDict(
            {name: _Convolution(size, dim, (kernels or {}).get(name, 1)) for name, size in dims.items()}
        )
        self.streams = _Streams(count, dim, num_heads, num_layers, dropout) if count > 1 else None
        self.memory = _Memory(count, width, num_heads, num_layers, dropout)
        self.absent = nn.Parameter(0.02 * torch.randn(count * width))  # flat, as biases are: vectors are not decayed
        self.out = nn.Linear(count * width, dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        tokens, masks = read_tokens(features, self.project)
        projected = [project(tokens[name]) for name, project in self.project.items()]
        low = [x + sinusoids(x.shape[1], x) for x in projected]
        real = [masks[name] for name in self.project]
        may = [reading(mask, low[0].dtype) for mask in real]
        # Modalities of equal lengths run side by side, others in turn.
        every = list(range(len(low)))
        groups = [every] if all(x.shape[1] == low[0].shape[1] for x in low) else [[m] for m in every]
        read = [side_by_side([low[m] for m in group]) for group in groups]
        if self.streams is not None:
            read = self.streams(read, low, may)
        last = [side_by_side([_last_real(real[m]) for m in group]) for group in groups]
        vectors = self.memory(read, [[may[m] for m in group] for group in groups], last)  # (modality, batch, width)
        present = torch.stack([mask.any(dim=1) for mask in real])  # (modality, batch)
        vectors = torch.where(present[..., None], vectors, self.absent.view(len(vectors), 1, -1))
        pooled = self.out(vectors.transpose(0, 1).flatten(1))
        return Fused(Features.from_pooled(pooled, present.any(dim=0)))


class _Convolution(nn.Conv1d):
    """Temporal convolution; beyond the ends, and where nothing is real, stand zeros."""

    def __init__(self, width: int, dim: int, kernel: int) -> None:
        super().__init__(width, dim, kernel, padding="same")

    def forward(self, tokens: Tensor) -> Tensor:
        if self.kernel_size == (1,):
            return F.linear(tokens, self.weight.squeeze(-1), self.bias)
        return super().forward(tokens.transpose(1, 2)).transpose(1, 2)


class _Streams(nn.Module):
    """The stacks m <- n of all pairs, in the order of m, then n."""

    def __init__(self, count: int, dim: int, num_heads: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.others, self.num_heads = count - 1, num_heads
        self.sources = [n for m in range(count) for n in range(count) if m != n]
        streams = len(self.sources)
        self.key_value = StackedLinear(streams, dim, num_layers * 2 * dim)
        self.layers = nn.ModuleList(StackedLayer(streams, dim, num_heads, dropout=dropout) for _ in range(num_layers))

    def forward(self, tokens: list[Tensor], low: list[Tensor], may: list[Reading]) -> list[Tensor]:
        """What each modality has read of the others: (modality, batch, time, others * dim) for each group."""
        keys = self._keys(len(tokens), low, may)
        tokens = [x[:, None].expand(-1, self.others, -1, -1, -1).flatten(0, 1) for x in tokens]
        for place, layer in enumerate(self.layers):
            tokens = layer(tokens, [norm(x) for x in tokens], [group[place] for group in keys])
        return [x.unflatten(0, (-1, self.others)).permute(0, 2, 3, 1, 4).flatten(-2) for x in tokens]

    def _keys(self, groups: int, low: list[Tensor], may: list[Reading]) -> list[list[tuple[Keys, ...]]]:
        """For each group and layer the keys of its streams, in one piece where lengths are equal."""
        normed = [norm(x) for x in low]
        pieces = [self.sources] if groups == 1 else [[n] for n in self.sources]
        every = []
        for piece, part in zip(pieces, self.key_value.parts(len(pieces)), strict=True):
            projected = affine(side_by_side([normed[n] for n in piece]), part)
            every.append(split_keys(projected, len(self.layers), self.num_heads, [may[n] for n in piece]))
        size = len(every) // groups
        return [list(zip(*every[i : i + size], strict=True)) for i in range(0, len(every), size)]


class _Memory(nn.Module):
    """One transformer a modality over what it has read, of which the last real token comes out."""

    def __init__(self, count: int, dim: int, num_heads: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.key_value = nn.ModuleList(StackedLinear(count, dim, 2 * dim) for _ in range(num_layers))
        self.layers = nn.ModuleList(StackedLayer(count, dim, num_heads, dropout=dropout) for _ in range(num_layers))

    def forward(self, tokens: list[Tensor], may: list[list[Reading]], last: list[Tensor]) -> Tensor:
        """(modality, batch, dim)."""
        for key_value, layer in zip(self.key_value, self.layers, strict=True):
            normed = [norm(x) for x in tokens]
            parts = zip(normed, key_value.parts(len(tokens)), may, strict=True)  # type: ignore[operator]
            keys = [split_keys(affine(x, part), 1, self.num_heads, which) for x, part, which in parts]
            if layer is self.layers[-1]:  # nobody reads the other tokens of the last layer
                tokens, normed = ([_at(x, place) for x, place in zip(y, last, strict=True)] for y in (tokens, normed))
            tokens = layer(tokens, normed, keys)
        return norm(torch.cat(tokens)).squeeze(2)


def _last_real(mask: Tensor) -> Tensor:
    """The place of the last real token of each sample; 0 where there is none."""
    return (torch.arange(mask.shape[1], device=mask.device) * mask).argmax(dim=1)


def _at(tokens: Tensor, place: Tensor) -> Tensor:
    """One token of each sequence: (sequence, batch, 1, dim)."""
    return tokens.gather(2, place[..., None, None].expand(-1, -1, -1, tokens.shape[-1]))


def _require_kernels(kernels: Mapping[str, int], dims: Mapping[str, int]) -> None:
    require_known_names("MulT(kernels=...)", kernels, dims, "modality")
    for name, kernel in kernels.items():
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(
                f"MulT got kernels[{name!r}]={kernel}. Expected an odd number, so that a token stands in the middle of "
                "its window. Choose 1, 3 or 5."
            )
