"""MFB as in the authors' code: product, dropout, sum pooling, signed square root, l2 norm."""

import torch


def mfb(fusion, features):
    product = 1
    for name, x in features.items():
        product = product * fusion.project[name](x.pooled)
    product = fusion.dropout(product)
    z = product.view(len(product), -1, fusion.rank).sum(2)
    z = z / torch.sqrt(z.abs() + 1e-6)
    return z / torch.sqrt((z**2).sum(dim=1, keepdim=True) + 1e-6)
