"""BLOCK as in the authors' code: a loop over chunks, each with its pair of layers."""

import torch


def block(fusion, features):
    (a, x), (b, y) = features.items()
    x, y = (fusion.project[name](z.pooled).chunk(fusion.chunks, dim=1) for name, z in features.items())
    results = []
    for c in range(fusion.chunks):
        left = x[c] @ fusion.factor[a][c] + fusion.factor_bias[a][c]
        right = y[c] @ fusion.factor[b][c] + fusion.factor_bias[b][c]
        results.append((left * right).view(len(left), fusion.rank, -1).sum(1))
    return fusion.out(fusion.dropout(torch.cat(results, dim=1)))
