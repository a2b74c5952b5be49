"""Absent modalities predicted from the present ones: round a fusion, {name: Features} -> Fused."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.masking import wide
from mmfuse.layers.modalities import by_name, read_pooled


@recorded
class Imputation(nn.Module):
    r"""Predict the features of each absent modality from those of the present ones, then fuse.

    .. math::
        \hat{x}_m = \operatorname{MLP}_m([x_n]_{n \ne m};\ [1_{n \in P(i)}]_{n \ne m}), \qquad
        L_m = \frac{\lambda}{|S_m|} \sum_{i \in S_m} \frac{1}{d_m} \lVert \hat{x}_m - \operatorname{sg}(x_m) \rVert^2

    with zeros for the :math:`x_n` that are absent, one hidden layer with GELU, :math:`S_m` the samples that have m and
    another modality, and sg the stop of the gradient: the features are not pulled towards what is easy to predict,
    while what predicts learns to be telling. :math:`L_m` is ``penalties["imputation/m"]``, exactly 0 where no sample
    counts; it is trained on modalities that are there, each as if it were not. For the fusion
    :math:`\hat{x}_m` is the pooled vector and the only token of the absent modality, which counts as present there.
    A sample that has nothing keeps nothing.

    It stands round the fusion, and not before it as the other parts of ``missing`` do, because its losses have to
    reach ``Fused.penalties``. ``Fused.weights`` still promise that absence has no weight: a predicted modality says
    nothing that the present ones did not say, so its share goes to them, in proportion to their own. After
    ``ModalityDropout`` the fusion learns from predictions where data is complete. The gradient of a penalty with
    respect to its target is stopped, so it does not agree with finite differences.

    Source: as the autoencoders of Tran et al. (2017), "Missing Modalities Imputation via Cascaded Residual
    Autoencoder", CVPR, but of features and with one network a modality.

    Args:
        dims: width of each modality; those that the fusion was built for.
        fusion: ``{modality: Features} -> Fused``.
        hidden: width of the hidden layers; that of the predicted modality if None.
        weight: :math:`\lambda`, which every penalty is multiplied by.
    """

    def __init__(
        self, dims: Mapping[str, int], fusion: nn.Module, *, hidden: int | None = None, weight: float = 1.0
    ) -> None:
        super().__init__()
        require_dims("Imputation", dims, 1)
        require_positive("Imputation", weight=weight, **({} if hidden is None else {"hidden": hidden}))
        if len(dims) < 2:
            raise ValueError(
                f"Imputation got the modality {next(iter(dims))!r} alone. Expected two or more: each is predicted from "
                "the others. Use the fusion without it."
            )
        _require_same_dims(dims, fusion)
        total = sum(dims.values())
        self.predict = nn.ModuleDict(
            {name: _mlp(total - width + len(dims) - 1, hidden or width, width) for name, width in dims.items()}
        )
        self.fusion = fusion
        self.weight = weight

    def forward(self, features: Mapping[str, Features]) -> Fused:
        pooled, present = read_pooled(features, self.predict)
        predicted = self._predict(pooled, present)
        some = present.any(dim=1)
        filled = {name: _fill(features[name], predicted[name], some) for name in self.predict}
        fused: Fused = self.fusion({**features, **filled})
        losses = self._losses(predicted, pooled, present)
        return Fused(fused.features, self._shares(fused.weights, present), {**fused.penalties, **losses})

    def _predict(self, pooled: Mapping[str, Tensor], present: Bool[Tensor, "batch modality"]) -> dict[str, Tensor]:
        """Each modality from the others."""
        there = dict(zip(pooled, present.split(1, dim=1), strict=True))  # (batch, 1) each
        result = {}
        for name, mlp in self.predict.items():
            others = [other for other in pooled if other != name]
            known = [there[other].to(pooled[name].dtype) for other in others]
            result[name] = mlp(torch.cat([*(pooled[other] for other in others), *known], dim=1))
        return result

    def _losses(
        self, predicted: Mapping[str, Tensor], pooled: Mapping[str, Tensor], present: Bool[Tensor, "batch modality"]
    ) -> dict[str, Float[Tensor, ""]]:
        """The error of each modality's prediction, over the samples that have it and another one."""
        several = present.sum(dim=1) > 1
        losses = {}
        for place, (name, guess) in enumerate(predicted.items()):
            error = (wide(guess) - wide(pooled[name].detach())).square().mean(dim=1)  # (batch)
            counts = present[:, place] & several
            total = error.masked_fill(~counts, 0.0).sum()
            losses[f"imputation/{name}"] = self.weight * total / counts.sum().clamp_min(1)
        return losses

    def _shares(
        self, weights: Mapping[str, Tensor], present: Bool[Tensor, "batch modality"]
    ) -> dict[str, Float[Tensor, " batch"]]:
        """The fusion's shares, with those of absent modalities handed to the present ones."""
        if not weights:
            return {}
        given = torch.stack([weights[name] for name in self.predict], dim=1).masked_fill(~present, 0.0)
        total = given.sum(dim=1, keepdim=True)
        # Where the fusion looks at predictions only, all that they were made from counts alike.
        given = torch.where(total > 0, given, present.to(given.dtype))
        return by_name(self.predict, given / given.sum(dim=1, keepdim=True).clamp_min(torch.finfo(given.dtype).tiny))


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def _fill(x: Features, guess: Float[Tensor, "batch dim"], some: Bool[Tensor, " batch"]) -> Features:
    """Features with a guess as pooled vector and first token, where a sample lacks them but has something."""
    absent = some & ~x.present
    guess, time = guess.to(x.pooled.dtype), x.tokens.shape[1]
    first = torch.arange(time, device=x.mask.device) == 0  # (time)
    return Features(
        tokens=torch.where((absent[:, None] & first)[..., None], guess[:, None].to(x.tokens.dtype), x.tokens),
        mask=x.mask | (absent[:, None] & first),
        pooled=torch.where(absent[:, None], guess, x.pooled),
    )


def _require_same_dims(dims: Mapping[str, int], fusion: nn.Module) -> None:
    """Raise ValueError if the fusion was built for other modalities or widths (if it remembers for which)."""
    built = getattr(fusion, "_recorded_arguments", {}).get("dims")
    if built is not None and dict(built) != dict(dims):
        raise ValueError(
            f"Imputation got dims={dict(dims)} and a {type(fusion).__name__} that was built for {dict(built)}. "
            "Expected the same names and widths. Build both with dims_of(encoders)."
        )
