"""Fusion by displacement: the other modalities shift each token of the main one, within bounds."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_main, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.masking import masked_mean
from mmfuse.layers.modalities import read_pooled, read_tokens

Tokens = Float[Tensor, "batch time dim"]


@recorded
class AdaptationGate(nn.Module):
    r"""Multimodal adaptation gate (MAG): the others shift each token of the main modality, never by too much.

    .. math::
        g_m = \operatorname{relu}(W_m [Z; x_m] + b_m), \qquad
        H = \sum_m g_m * (U_m x_m) + b_H, \qquad
        \bar Z = \operatorname{LN}\Bigl(Z + \min\Bigl(\beta \frac{\lVert Z \rVert}{\lVert H \rVert}, 1\Bigr) H\Bigr)

    Here :math:`Z` is one token of the main modality, projected to ``dim``, and :math:`x_m` the pooled vector of another
    modality. The paper has words with sound and face aligned to each; here tokens need no alignment, so every token
    reads the same :math:`x_m`, and its gates say how much of it to take. Norms are over the coordinates of a token;
    below a norm of 1e-6 H counts as that long. Dropout follows the normalisation, as in the paper, whose code has
    it at 0.5. The result is one token for each of the main modality; ``pooled`` is their mean. ``look[name]`` is the
    part of :math:`W_m` that reads Z, ``gate[name]`` the rest with :math:`b_m`.

    Source: Rahman, Hasan, Lee, Zadeh, Mao, Morency, Hoque (2020), "Integrating Multimodal Information in Large
    Pretrained Transformers", https://arxiv.org/abs/1908.05787.

    Reads: tokens, of the main modality; pooled vectors of the others.

    Absent: where all others are absent nothing shifts (not :math:`b_H` either). Where the main modality is absent, a
    learned vector stands in for it, as the first and only token. A sample with nothing at all gives zeros.

    Cost: parameters grow as ``dim (d_main + M dim + 2 (sum of the others' d_m))``; time as ``T_main dim (d_main + M
    dim)``, whatever the lengths of the others.

    Use: where one modality leads, such as text from a pretrained model, and the others tell tone. A main modality
    with one token (:meth:`Features.from_pooled`) is one vector, shifted.

    Args:
        dims: width of each modality.
        dim: width of tokens and fused vector.
        main: the modality that is shifted; the first of ``dims`` if None.
        beta: the longest shift, as a multiple of the length of the token.
        dropout: of the result.

    Raises:
        ValueError: no modalities, a width or ``beta`` that is not positive, a ``main`` that is not in ``dims``, or a
            dropout outside [0, 1).
    """

    reads = "tokens"

    def __init__(
        self, dims: Mapping[str, int], dim: int, *, main: str | None = None, beta: float = 1.0, dropout: float = 0.1
    ) -> None:
        super().__init__()
        require_dims("AdaptationGate", dims, dim)
        require_positive("AdaptationGate", beta=beta)
        require_share("AdaptationGate", dropout=dropout)
        self.main = require_main("AdaptationGate", main, dims)
        self.beta = beta
        others = {name: width for name, width in dims.items() if name != self.main}
        self.project = nn.Linear(dims[self.main], dim)
        self.absent = nn.Parameter(0.02 * torch.randn(dim))
        self.look = nn.ModuleDict({name: nn.Linear(dim, dim, bias=False) for name in others})
        self.gate = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in others.items()})
        self.value = nn.ModuleDict({name: nn.Linear(width, dim, bias=False) for name, width in others.items()})
        self.bias = nn.Parameter(torch.zeros(dim))
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, [self.main, *self.gate.keys()])  # present: (batch, modality)
        others = present[:, 1:].any(dim=1)  # (batch)
        tokens, mask = self._tokens(features, alone=others & ~present[:, 0])
        shift = self._shift(tokens, inputs) * others[:, None, None]
        shifted = self.dropout(self.norm(tokens + self._bounded(shift, tokens)))
        return Fused(Features(shifted, mask, masked_mean(shifted, mask)))

    def _tokens(
        self, features: Mapping[str, Features], alone: Bool[Tensor, " batch"]
    ) -> tuple[Tokens, Bool[Tensor, "batch time"]]:
        """Z and its mask. Where the others are alone, the first token is the learned vector."""
        tokens, masks = read_tokens(features, [self.main])
        projected, mask = self.project(tokens[self.main]), masks[self.main].clone()
        projected[:, 0] = torch.where(alone[:, None], self.absent, projected[:, 0])
        mask[:, 0] |= alone
        return projected, mask

    def _shift(self, tokens: Tokens, inputs: Mapping[str, Tensor]) -> Tokens:
        """H before its bound. An absent modality is 0 here, and adds 0."""
        shift = self.bias.expand_as(tokens)
        for name, look in self.look.items():
            gate = (look(tokens) + self.gate[name](inputs[name])[:, None]).relu()
            shift = shift + gate * self.value[name](inputs[name])[:, None]
        return shift

    def _bounded(self, shift: Tokens, tokens: Tokens) -> Tokens:
        """H, made shorter where it is longer than beta times its token."""
        wide = tokens.dtype if tokens.itemsize > 4 else torch.float32
        length = torch.linalg.vector_norm(tokens, dim=2, keepdim=True, dtype=wide)
        longest = torch.linalg.vector_norm(shift, dim=2, keepdim=True, dtype=wide).clamp_min(1e-6)
        return shift * (self.beta * length / longest).clamp_max(1.0).to(shift.dtype)
