"""Multiplicative interaction as in MultiBench ('matrix'): the weights of each sample first, then applied to it."""

import torch


def multiplicative_interaction(fusion, features):
    (a, z), (b, x) = features.items()
    left, right = fusion.project[a](z.pooled), fusion.project[b](x.pooled)
    weights = torch.einsum("bm,mnp->bnp", left, fusion.product)
    h = torch.einsum("bn,bnp->bp", right, weights)
    return h + fusion.linear[a](z.pooled) + fusion.linear[b](x.pooled) + fusion.bias
