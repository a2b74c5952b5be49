"""Fusion by a mixture of experts: small networks over all modalities, and a gate that says whom to ask."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_not_negative, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.masking import wide
from mmfuse.layers.modalities import read_pooled

LEAST_NOISE = 1e-2


@recorded
class ExpertFusion(nn.Module):
    r"""Let a gate, which sees what every modality says and which are there, choose among experts that see the same.

    .. math::
        h = \sum_k G(x)_k E_k(x), \qquad G(x) = \operatorname{softmax}(\operatorname{KeepTopK}(H(x))), \qquad
        x = [P_1 x_1; \dots; P_M x_M]

    Here :math:`x_m` is the pooled vector of modality m, :math:`P_m` its projection to ``dim``, and each expert
    :math:`E_k(x) = V_k \operatorname{dropout}(\operatorname{GELU}(U_k x + c_k)) + d_k` has a hidden layer of width
    ``dim``. The gate is linear, :math:`H(x) = W_g [x; p]`, with p a one for each modality that is present, so that
    experts can specialise in combinations of modalities (the joint router of FuseMoE, and in place of Flex-MoE's
    router for each combination). It starts at equal shares for all experts.

    With ``top_k`` None every expert answers (KeepTopK keeps all). With ``top_k`` the k largest of H are kept, and in
    training H has noise, :math:`H(x) = W_g [x; p] + \epsilon * \operatorname{softplus}(W_n [x; p])`, with
    :math:`\epsilon` from N(0, 1), so that the others get their chance (0.01 is added to the softplus, as the authors'
    code does: it divides below).

    ``Fused.penalties["importance"]`` is ``balance`` times the squared coefficient of variation over experts of
    :math:`\sum_x G(x)_k`; with ``top_k``, ``"load"`` is the same of :math:`\sum_x P(x, k)`, where :math:`P(x, k)` is
    the chance that another draw of noise for expert k keeps it. Both sums are over the samples that have a modality.
    :meth:`gates` gives the shares of the experts, to look at. They are no shares of modalities, so there are no
    ``Fused.weights``.

    Source: Shazeer, Mirhoseini, Maziarz, Davis, Le, Hinton, Dean (2017), "Outrageously Large Neural Networks: The
    Sparsely-Gated Mixture-of-Experts Layer", https://arxiv.org/abs/1701.06538, equations 1 to 11; for modalities that
    may be missing: Han, Nguyen, Harris, Ho, Saria (2024), "FuseMoE: Mixture-of-Experts Transformers for Fleximodal
    Fusion", https://arxiv.org/abs/2402.03226, and Yun, Choi, Peng, Wu, Bao, Zhang, Xin, Long, Chen (2024), "Flex-MoE:
    Modeling Arbitrary Modality Combination via the Flexible Mixture-of-Experts", https://arxiv.org/abs/2410.08245.

    Reads: pooled vectors.

    Absent: the place of an absent modality in x holds a learned vector of its own (Flex-MoE's bank of missing
    modalities, without its dependence on those present, which the gate has), and its p is 0. A sample with nothing at
    all gives what the learned vectors give.

    Cost: parameters and time grow as ``dim (sum of d_m) + K M dim^2``. All experts are computed, in two matrix
    products, and those not kept count 0: ``top_k`` changes what is learned, and saves no time.

    Use: where samples differ in kind or in what they lack, and there are enough of each. With few samples take
    ``Concat``, which is one expert.

    Args:
        dims: width of each modality.
        dim: width of the projections, of the hidden layers and of the fused vector.
        num_experts: K.
        top_k: how many experts answer a sample; all if None.
        balance: weight of the penalties.
        dropout: in the experts.

    Raises:
        ValueError: no modalities, a number that is not positive, ``top_k`` that is not below ``num_experts``, a
            negative ``balance``, or a dropout outside [0, 1).
    """

    reads = "pooled"

    def __init__(
        self,
        dims: Mapping[str, int],
        dim: int,
        *,
        num_experts: int = 4,
        top_k: int | None = None,
        balance: float = 0.01,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_dims("ExpertFusion", dims, dim)
        require_positive("ExpertFusion", num_experts=num_experts, top_k=1 if top_k is None else top_k)
        require_not_negative("ExpertFusion", balance=balance)
        require_share("ExpertFusion", dropout=dropout)
        if top_k is not None and top_k >= num_experts:
            raise ValueError(
                f"ExpertFusion got top_k={top_k} of num_experts={num_experts}. Expected fewer than there are. "
                "Use top_k=None to ask all of them."
            )
        joined, seen = len(dims) * dim, len(dims) * (dim + 1)
        self.top_k = top_k
        self.balance = balance
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.absent = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(dim)) for name in dims})
        self.gate = _zero(nn.Linear(seen, num_experts, bias=False))
        self.noise = None if top_k is None else _zero(nn.Linear(seen, num_experts, bias=False))
        # Expert k has the k-th block of rows of the first layer, and the k-th matrix of the second.
        self.inner = nn.Linear(joined, num_experts * dim)
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Parameter(torch.empty(num_experts, dim, dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.outer_bias = nn.Parameter(torch.zeros(num_experts, dim))

    def forward(self, features: Mapping[str, Features]) -> Fused:
        joined, present = self._join(features)
        anyone = present.any(dim=1)
        gates, load = self._route(joined, present)  # (batch, expert) each
        hidden = self.dropout(F.gelu(self.inner(joined))).unflatten(1, (len(self.outer), -1))
        shares = gates.to(hidden.dtype)
        # The sum over experts is part of the matrix product: their answers are never written down one by one.
        pooled = (hidden * shares[..., None]).flatten(1) @ self.outer.flatten(0, 1) + shares @ self.outer_bias
        penalties = {"importance": self.balance * _imbalance(gates, anyone)}
        if load is not None:
            penalties["load"] = self.balance * _imbalance(load, anyone)
        return Fused(Features.from_pooled(pooled, anyone), penalties=penalties)

    def gates(self, features: Mapping[str, Features]) -> Float[Tensor, "batch expert"]:
        """The share of each expert in each sample's answer; their mean over samples is the load of the experts."""
        return self._route(*self._join(features))[0]

    def _join(
        self, features: Mapping[str, Features]
    ) -> tuple[Float[Tensor, "batch joined"], Bool[Tensor, "batch modality"]]:
        """The projected modalities side by side, and which are present."""
        pooled, present = read_pooled(features, self.project)
        slots = [
            torch.where(here[:, None], self.project[name](x), self.absent[name])
            for (name, x), here in zip(pooled.items(), present.unbind(dim=1), strict=True)
        ]
        return torch.cat(slots, dim=1), present

    def _route(
        self, joined: Float[Tensor, "batch joined"], present: Bool[Tensor, "batch modality"]
    ) -> tuple[Float[Tensor, "batch expert"], Float[Tensor, "batch expert"] | None]:
        """Shares of the experts, and with ``top_k`` the chance of each to be kept. In float32 or better."""
        seen = torch.cat([joined, present.to(joined.dtype)], dim=1)
        clean = wide(self.gate(seen))
        if self.noise is None or self.top_k is None:
            return clean.softmax(dim=1), None
        spread = F.softplus(wide(self.noise(seen))) + LEAST_NOISE
        noisy = clean + spread * torch.randn_like(clean) if self.training else clean
        best, kept = noisy.topk(self.top_k + 1, dim=1)
        gates = torch.zeros_like(noisy).scatter(1, kept[:, :-1], best[:, :-1].softmax(dim=1))
        # What expert k must beat: the last one kept if it is out itself, and if it is in, the first one out.
        bar = torch.where(noisy > best[:, -1:], best[:, -1:], best[:, -2:-1])
        return gates, torch.special.ndtr((clean - bar) / spread)


def _imbalance(shares: Float[Tensor, "batch expert"], counts: Bool[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Squared coefficient of variation over experts of their sums over the samples that count; 0 if none does."""
    total = shares.masked_fill(~counts[:, None], 0.0).sum(dim=0)
    return total.var(correction=0) / total.mean().square().clamp_min(1e-12)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    return layer
