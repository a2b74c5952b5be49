"""Evidential fusion as in the authors' code: Dempster's rule for two opinions, one pair after the other."""

import torch
import torch.nn.functional as F


def evidential(fusion, features):
    alphas = [F.softplus(fusion.judge[name](x.pooled)) + 1 for name, x in features.items()]
    combined = alphas[0]
    for alpha in alphas[1:]:
        combined = _dempster(combined, alpha)
    return combined - 1


def _dempster(first, second):
    classes = first.shape[1]
    strength = [alpha.sum(dim=1, keepdim=True) for alpha in (first, second)]
    belief = [(alpha - 1) / s for alpha, s in zip((first, second), strength, strict=True)]
    unknown = [classes / s for s in strength]
    products = torch.bmm(belief[0][:, :, None], belief[1][:, None])  # (batch, class, class)
    conflict = products.sum(dim=(1, 2)) - torch.diagonal(products, dim1=1, dim2=2).sum(dim=1)
    agreement = belief[0] * belief[1] + belief[0] * unknown[1] + belief[1] * unknown[0]
    both = agreement / (1 - conflict)[:, None]
    left = unknown[0] * unknown[1] / (1 - conflict)[:, None]
    return both * classes / left + 1
