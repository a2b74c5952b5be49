"""MLB as written from its equation."""

import torch


def mlb(fusion, features):
    product = 1
    for name, x in features.items():
        product = product * torch.tanh(fusion.project[name](x.pooled))
    return fusion.out(fusion.dropout(product))
