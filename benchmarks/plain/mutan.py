"""MUTAN as in the authors' code: one pair of layers a rank, products in a list, stacked and summed."""

import torch
import torch.nn.functional as F


def mutan(fusion, features):
    (a, x), (b, y) = features.items()
    x, y = fusion.project[a](x.pooled), fusion.project[b](y.pooled)
    products = [
        F.linear(x, *left) * F.linear(y, *right)
        for left, right in zip(_layers(fusion, a), _layers(fusion, b), strict=True)
    ]
    return fusion.out(fusion.dropout(torch.stack(products, dim=1).sum(1)))


def _layers(fusion, name):
    layer = fusion.factor[name]
    return zip(layer.weight.chunk(fusion.rank), layer.bias.chunk(fusion.rank), strict=True)
