"""Products of experts as in the authors' code: means and log variances, stacked with the prior's zeros.

The divergence from the prior belongs to the method, so it is computed here too.
"""

import itertools

import torch


def product_of_experts(fusion, features):
    mean, variance = _product(_experts(fusion, features))
    _divergence(mean, variance)
    return mean


def mixture_of_products(fusion, features):
    experts = _experts(fusion, features)
    subsets = [s for size in range(1, len(experts) + 1) for s in itertools.combinations(experts, size)]
    products = [_product(subset) for subset in subsets]
    sum(_divergence(*product) for product in products)
    return torch.stack([mean for mean, _ in products]).mean(dim=0)


def _experts(fusion, features):
    experts = []
    for name, x in features.items():
        mean, log_variance = fusion.expert[name](x.pooled).chunk(2, dim=1)
        experts.append((mean, 10 * torch.tanh(log_variance / 10)))
    return experts


def _product(experts):
    prior = torch.zeros_like(experts[0][0])
    means = torch.stack([prior, *(mean for mean, _ in experts)])
    precisions = 1 / torch.exp(torch.stack([prior, *(log_variance for _, log_variance in experts)]))
    return (means * precisions).sum(dim=0) / precisions.sum(dim=0), 1 / precisions.sum(dim=0)


def _divergence(mean, variance):
    return (-0.5 * (1 + variance.log() - mean**2 - variance).sum(dim=1)).mean()
