"""Fusion by multiplying beliefs: each modality is a Gaussian expert about one hidden vector."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_not_negative
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.masking import masked_mean, mean_of_real, wide
from mmfuse.layers.modalities import by_name, read_pooled

LOG_VARIANCE_BOUND = 10.0
LOG_VARIANCE_AT_FIRST = -5.0
MOST_MODALITIES = 10  # of a mixture over all subsets


@recorded
class ProductOfExperts(nn.Module):
    r"""Multiply the Gaussian beliefs of the modalities and of a prior: the surer an expert, the more it counts.

    .. math::
        \mu = \sigma^2 \sum_m \frac{\mu_m}{\sigma_m^2}, \qquad
        \sigma^{-2} = 1 + \sum_m \sigma_m^{-2}, \qquad
        (\mu_m, \log \sigma_m^2) = \operatorname{MLP}_m(x_m)

    Here :math:`x_m` is the pooled vector of modality m, which says :math:`N(\mu_m, \sigma_m^2)` about each coordinate
    of the hidden vector; the 1 is the precision of the prior expert N(0, 1). Log variances are bent into (-10, 10) by
    a tanh, and start near -5, or noise would drown what little the means say at first. The fused vector is :math:`\mu`
    in evaluation and a draw from :math:`N(\mu, \sigma^2)` in training. ``Fused.penalties["kl"]`` is
    :math:`\beta\, KL[N(\mu, \sigma^2) \| N(0, 1)]`, the mean over the samples that have a modality. ``Fused.weights``
    are shares of precision, :math:`\sigma_m^{-2}` over their sum without the prior, the mean over coordinates.

    In the paper the hidden vector explains the modalities through decoders. Here the losses of the tasks stand in their
    place, as in the information bottleneck of Alemi et al. (2017), https://arxiv.org/abs/1612.00410, and with
    :math:`\beta` as small as there. The paper's terms for single modalities and random subsets are what
    ``ModalityDropout`` does.

    Source: Wu, Goodman (2018), "Multimodal Generative Models for Scalable Weakly-Supervised Learning",
    https://arxiv.org/abs/1802.05335.

    Reads: pooled vectors.

    Absent: an absent modality is no expert (precision 0): exact. A sample with nothing at all gives the prior: zeros in
    evaluation.

    Cost: parameters and time grow as ``dim (sum of d_m) + 2 M dim^2``.

    Use: where modalities are often missing or of changing quality, and each could answer alone. With few samples the
    noise in training holds it back.

    Args:
        dims: width of each modality.
        dim: width of the fused vector, and of the hidden layers.
        kl_weight: beta, of the penalty.

    Raises:
        ValueError: no modalities, a width that is not positive, or a negative ``kl_weight``.
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int, *, kl_weight: float = 1e-3) -> None:
        super().__init__()
        require_dims("ProductOfExperts", dims, dim)
        require_not_negative("ProductOfExperts", kl_weight=kl_weight)
        self.expert = _experts(dims, dim)
        self.kl_weight = kl_weight

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, self.expert)  # present: (batch, modality)
        anyone = present.any(dim=1)
        means, precisions = _beliefs(self.expert, inputs, present)  # (batch, modality, dim)
        known = precisions.sum(dim=1)
        precision = 1 + known
        mean = (precisions * means).sum(dim=1) / precision
        pooled = (_draw(mean, precision) if self.training else mean).to(_dtype_of(inputs))
        shares = (precisions / known.clamp_min(1e-12)[:, None]).mean(dim=2).to(pooled.dtype)
        kl = mean_of_real(_kl_to_prior(mean, precision), anyone)
        return Fused(
            Features.from_pooled(pooled, anyone),
            weights=by_name(inputs, shares),
            penalties={"kl": self.kl_weight * kl},
        )


@recorded
class MixtureOfProducts(nn.Module):
    r"""The mixture of the products of experts of all subsets of the modalities that are present (MoPoE).

    .. math::
        q(z) = \frac{1}{2^n - 1} \sum_{\emptyset \ne A \subseteq P} N(z; \mu_A, \sigma_A^2), \qquad
        \mu_A = \sigma_A^2 \sum_{m \in A} \frac{\mu_m}{\sigma_m^2}, \qquad
        \sigma_A^{-2} = 1 + \sum_{m \in A} \sigma_m^{-2}

    Here P holds the n modalities present and :math:`(\mu_m, \log \sigma_m^2) = \operatorname{MLP}_m(x_m)` as in
    :class:`ProductOfExperts`; every product has the prior expert N(0, 1). The fused vector is the mean of the mixture
    in evaluation; in training it is a draw from it: one subset with equal chances, then one vector.
    ``Fused.penalties["kl"]`` is :math:`\beta` times the mean of the products' divergences from N(0, 1), an upper bound
    of the mixture's, as in the paper; the mean over the samples that have a modality. ``Fused.weights`` are shares of
    precision within each product, the mean over coordinates and products. Decoders as in :class:`ProductOfExperts`.

    Source: Sutter, Daunhawer, Vogt (2021), "Generalized Multimodal ELBO", https://arxiv.org/abs/2105.02470.

    Reads: pooled vectors.

    Absent: subsets with an absent modality do not exist, and the others share the whole: exact. A sample with nothing
    at all gives the prior: zeros in evaluation.

    Cost: parameters as :class:`ProductOfExperts`; time and memory of the products grow as ``2^M dim``: ten modalities
    at most.

    Use: where any subset of the modalities must answer well: each one is trained by the mixture itself. What lies in a
    combination of modalities alone is learned slowly, since most subsets lack it: take :class:`ProductOfExperts` there.

    Args:
        dims: width of each modality.
        dim: width of the fused vector, and of the hidden layers.
        kl_weight: beta, of the penalty.

    Raises:
        ValueError: none or more than ten modalities, a width that is not positive, or a negative ``kl_weight``.
    """

    reads = "pooled"
    members: Tensor

    def __init__(self, dims: Mapping[str, int], dim: int, *, kl_weight: float = 1e-3) -> None:
        super().__init__()
        require_dims("MixtureOfProducts", dims, dim)
        require_not_negative("MixtureOfProducts", kl_weight=kl_weight)
        if len(dims) > MOST_MODALITIES:
            raise ValueError(
                f"MixtureOfProducts got {len(dims)} modalities, which have {2 ** len(dims) - 1} subsets. Expected "
                f"{MOST_MODALITIES} modalities at most. Use ProductOfExperts, or Nested to fuse some first."
            )
        self.expert = _experts(dims, dim)
        self.kl_weight = kl_weight
        members = torch.arange(1, 2 ** len(dims))[:, None] >> torch.arange(len(dims)) & 1
        self.register_buffer("members", members.bool(), persistent=False)  # (subset, modality)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, self.expert)  # present: (batch, modality)
        anyone = present.any(dim=1)
        means, precisions = _beliefs(self.expert, inputs, present)  # (batch, modality, dim)
        exists = (present[:, None] | ~self.members).all(dim=2)  # (batch, subset)
        known, weighted = _over_subsets(precisions), precisions * means
        precision = 1 + known  # (batch, subset, dim)
        mean = _over_subsets(weighted) / precision
        pooled = self._draw_of(weighted, precisions, exists) if self.training else masked_mean(mean, exists)
        pooled = pooled.to(_dtype_of(inputs))
        kl = mean_of_real(masked_mean(_kl_to_prior(mean, precision)[..., None], exists).squeeze(1), anyone)
        return Fused(
            Features.from_pooled(pooled, anyone),
            weights=by_name(inputs, self._shares(precisions, known, exists).to(pooled.dtype)),
            penalties={"kl": self.kl_weight * kl},
        )

    def _draw_of(self, weighted: Tensor, precisions: Tensor, exists: Tensor) -> Tensor:
        """One product that exists, with equal chances, and one vector from it."""
        chances = torch.rand(exists.shape, device=exists.device).masked_fill(~exists, -1.0)
        chosen = self.members[chances.argmax(dim=1)][..., None]  # (batch, modality, 1)
        # Made anew of its experts: gathered from all products, its gradient would be as large as they are.
        precision = 1 + (precisions * chosen).sum(dim=1)
        return _draw((weighted * chosen).sum(dim=1) / precision, precision)

    def _shares(self, precisions: Tensor, known: Tensor, exists: Tensor) -> Tensor:
        """Share of each modality in each product, averaged over the products that exist and over coordinates."""
        per_known = known.clamp_min(math.exp(-LOG_VARIANCE_BOUND)).reciprocal()  # no expert knows less
        shares = torch.bmm(precisions, per_known.mT)  # (batch, modality, subset)
        holds = self.members.T & exists[:, None]
        count = exists.sum(dim=1, keepdim=True).clamp_min(1) * known.shape[2]
        return shares.masked_fill(~holds, 0.0).sum(dim=2) / count


def _experts(dims: Mapping[str, int], dim: int) -> nn.ModuleDict:
    """For each modality an MLP that gives a mean and a log variance."""
    experts = nn.ModuleDict()
    for name, width in dims.items():
        last = nn.Linear(dim, 2 * dim)
        with torch.no_grad():
            last.bias[dim:] += LOG_VARIANCE_AT_FIRST
        experts[name] = nn.Sequential(nn.Linear(width, dim), nn.GELU(), last)
    return experts


def _beliefs(
    experts: Mapping[str, nn.Module] | nn.ModuleDict,
    inputs: Mapping[str, Tensor],
    present: Bool[Tensor, "batch modality"],
) -> tuple[Float[Tensor, "batch modality dim"], Float[Tensor, "batch modality dim"]]:
    """Mean and precision of each expert, in float32 or better; precision 0 where absent."""
    raw = torch.stack([experts[name](x) for name, x in inputs.items()], dim=1)
    mean, log_variance = wide(raw).chunk(2, dim=2)
    # tanh(x) = 2 sigmoid(2 x) - 1, which takes a fifth of its time on a CPU
    log_precision = LOG_VARIANCE_BOUND - 2 * LOG_VARIANCE_BOUND * torch.sigmoid(2 / LOG_VARIANCE_BOUND * log_variance)
    return mean, torch.exp(log_precision) * present[..., None]


def _over_subsets(values: Float[Tensor, "batch modality dim"]) -> Float[Tensor, "batch subset dim"]:
    """The sum over each subset but the empty one. Bit m of a subset's number, from 1 on, says whether it holds m.

    Each modality doubles the list: additions only, which autocast leaves in float32.
    """
    sums, *others = values.split(1, dim=1)
    for value in others:
        sums = torch.cat([sums, value, sums + value], dim=1)
    return sums


def _kl_to_prior(mean: Float[Tensor, "*batch dim"], precision: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
    """KL[N(mean, 1 / precision) || N(0, 1)], summed over coordinates."""
    return 0.5 * ((torch.addcmul(1 / precision, mean, mean) + precision.log()).sum(dim=-1) - mean.shape[-1])


def _draw(mean: Tensor, precision: Tensor) -> Tensor:
    """One vector, so that gradients reach mean and precision."""
    return torch.addcmul(mean, torch.randn_like(mean), precision.rsqrt())


def _dtype_of(inputs: Mapping[str, Tensor]) -> torch.dtype:
    return next(iter(inputs.values())).dtype
