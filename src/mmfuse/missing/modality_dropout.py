"""Hides modalities at random in training: {name: Features} -> {name: Features}."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn

from mmfuse._checks import require_known_names, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features


@recorded
class ModalityDropout(nn.Module):
    r"""Hide each modality of each sample with a probability, in training, but never the last one that a sample has.

    .. math::
        k_m \sim \operatorname{Bernoulli}(1 - p_m) \text{ for each } m \in P(i), \qquad
        P'(i) = \{m : k_m = 1\}, \text{ or, if that is empty, } \{m\} \text{ with } m \text{ uniform over } P(i)

    So a model learns to do without any of its modalities, and does not lean on the easiest one. Hiding is a mask that
    becomes False; values stay as they are, nothing is scaled, and an encoder whose features are hidden gets a gradient
    of zero. A sample of one modality keeps it, a sample of none has none. In evaluation everything passes. The draw
    does not depend on the order of the mapping.

    Source: Neverova, Wolf, Taylor, Nebout (2015), "ModDrop: adaptive multi-modal gesture recognition",
    https://arxiv.org/abs/1501.00102. There all modalities of a sample may be lost at once; here one is kept.

    Args:
        p: probability of hiding, from 0 to below 1: one for all modalities, or one for each by name. A modality that
            is not named has 0.
    """

    def __init__(self, p: float | Mapping[str, float] = 0.2) -> None:
        super().__init__()
        require_share("ModalityDropout", **(p if isinstance(p, Mapping) else {"p": p}))
        self.p = dict(p) if isinstance(p, Mapping) else p

    def forward(self, features: Mapping[str, Features]) -> dict[str, Features]:
        if isinstance(self.p, dict):
            require_known_names("ModalityDropout(p=...)", self.p, features, "modality")
        if not self.training:
            return dict(features)
        names = sorted(features)
        kept = self._keep(names, torch.stack([features[name].present for name in names], dim=1))
        masks = {name: features[name].mask & kept[:, place, None] for place, name in enumerate(names)}
        return {name: replace(x, mask=masks[name]) for name, x in features.items()}

    def _keep(self, names: Sequence[str], present: Bool[Tensor, "batch modality"]) -> Bool[Tensor, "batch modality"]:
        """Which modalities stay, of those that are there."""
        shares = [self.p.get(name, 0.0) if isinstance(self.p, dict) else self.p for name in names]
        draw = torch.rand(present.shape, device=present.device)
        # One comparison a modality: a tensor of the shares would have to be copied to the device in every step.
        spared = torch.stack([draw[:, place] >= share for place, share in enumerate(shares)], dim=1) & present
        chosen = torch.rand(present.shape, device=present.device).masked_fill(~present, -1.0).argmax(dim=1)
        last = F.one_hot(chosen, len(names)).bool() & present
        return torch.where(spared.any(dim=1, keepdim=True), spared, last)
