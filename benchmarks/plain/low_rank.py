"""Low-rank fusion as in MultiBench: a 1 is appended, and a product with one factor matrix a rank is made by matmul."""

import torch


def low_rank(fusion, features):
    product = 1
    for x, factor in zip((x.pooled for x in features.values()), _factors(fusion, features), strict=True):
        ones = torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
        product = product * torch.matmul(torch.cat([x, ones], dim=1), factor)  # (rank, batch, dim)
    return torch.matmul(fusion.weights[None], product.permute(1, 0, 2)).squeeze(1) + fusion.bias


def _factors(fusion, features):
    """The factors as MultiBench keeps them, (rank, d + 1, dim); made once, so that only the method is timed."""
    weights = [fusion.factor[name].weight for name in features]
    made_from = [(weight.data_ptr(), weight._version) for weight in weights]
    if getattr(fusion, "_plain_made_from", None) != made_from:
        fusion._plain_made_from = made_from
        fusion._plain_factors = [_factor(fusion.factor[name], len(fusion.weights)) for name in features]
    for factor in fusion._plain_factors:
        factor.grad = None
    return fusion._plain_factors


def _factor(layer, rank):
    both = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()
    return both.unflatten(0, (rank, -1)).transpose(1, 2).contiguous().requires_grad_()
