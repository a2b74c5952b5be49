"""Tensor fusion as in MultiBench and MMSA: the outer product is built, then goes through a linear layer."""

import torch


def tensor_fusion(fusion, features):
    product = None
    for name, x in features.items():
        small = fusion.dropout(fusion.project[name](x.pooled))
        small = torch.cat([small, torch.ones(len(small), 1, dtype=small.dtype, device=small.device)], dim=1)
        product = small if product is None else torch.einsum("bi,bj->bij", product, small).reshape(len(small), -1)
    return product @ fusion.core.flatten(0, -2)
