"""Promises about what is missing: padding, absent modalities, small batches."""

import math

import torch
from torch import Tensor

from mmfuse.contracts import Features
from mmfuse.testing.samples import (
    Case,
    assert_close,
    assert_same,
    loss_of,
    padded,
    present_anywhere,
    rows,
    spoiled,
    watched,
)


def reads_only_what_is_real(case: Case) -> None:
    """NaN or infinity under every False: the same results, finite gradients, and none at all where nothing is real."""
    fusion = case.fusion()
    expected = fusion(case.features())
    for value in (math.nan, math.inf):
        features = watched(spoiled(case.features(), value))
        result = fusion(features)
        assert_same(result, expected, f"{value} where nothing is real changes the result")
        loss_of(result).backward()
        for name, parameter in fusion.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                raise AssertionError(f"{value} where nothing is real reaches the gradient of {name}")
        for name, x in features.items():
            if any(_gradient_where(part, ~where) for part, where in _parts(x)):
                raise AssertionError(f"a gradient reaches what is not real of {name!r}")


def gives_absence_no_weight(case: Case) -> None:
    """Reported weights are 0 where absent, and sum to 1 over the present."""
    features = case.features()
    weights = case.fusion()(features).weights
    if not weights:
        return
    if set(weights) != set(features):
        raise AssertionError(f"weights are reported for {sorted(weights)}, not for {sorted(features)}")
    for name, weight in weights.items():
        if (absent := weight[~features[name].present]).any():
            raise AssertionError(f"where {name!r} is absent its weight is {absent.tolist()}, not 0")
    total = torch.stack(list(weights.values())).sum(dim=0)
    assert_close(total, present_anywhere(features).to(total), "weights do not sum to 1 over the present modalities")


def does_not_see_the_length_of_padding(case: Case) -> None:
    """Two more padded steps change nothing."""
    fusion, features = case.fusion(), case.features()
    assert_same(fusion(padded(features, 2)), fusion(features), "two more padded steps change the result")


def every_present_modality_matters(case: Case) -> None:
    """The fused vector of a sample depends on each modality that it has, and where on tokens, on each real token."""
    fusion, features = case.fusion(), watched(case.features())
    pooled = fusion(features).features.pooled
    (pooled * torch.cos(torch.arange(pooled.numel())).reshape(pooled.shape)).sum().backward()
    for name, x in features.items():
        by_token = _gradient(x.tokens).ne(0).any(dim=2)  # (batch, time)
        matters = by_token.any(dim=1) | _gradient(x.pooled).ne(0).any(dim=1)
        if (idle := x.present & ~matters).any():
            raise AssertionError(f"the result does not depend on {name!r} in the samples {idle.nonzero().flatten()}")
        if by_token.any() and (unread := x.mask & ~by_token).any():
            raise AssertionError(f"the result does not depend on the tokens {unread.nonzero().tolist()} of {name!r}")


def answers_the_smallest_batch(case: Case) -> None:
    """One sample, one token, and any modalities of it or none: finite, and present where a modality is."""
    fusion = case.fusion()
    whole = {name: _first_token(x) for name, x in rows(case.features(), [0]).items()}
    for pattern in range(2 ** len(whole)):
        features = {
            name: Features(x.tokens, x.mask & bool(pattern >> place & 1), x.pooled)
            for place, (name, x) in enumerate(whole.items())
        }
        there = [name for name, x in features.items() if x.present.all()]
        fused = fusion(watched(features))
        if bool(fused.features.present.all()) != bool(there):
            raise AssertionError(f"with {there or 'nothing'} present, the result is present={not there}")
        if not fused.features.pooled.isfinite().all():
            raise AssertionError(f"with {there or 'nothing'} present, the result is not finite")
        loss = loss_of(fused)
        gradients = torch.autograd.grad(loss, list(fusion.parameters()), allow_unused=True) if loss.grad_fn else ()
        if any(g is not None and not g.isfinite().all() for g in gradients):
            raise AssertionError(f"with {there or 'nothing'} present, a gradient is not finite")


def _first_token(features: Features) -> Features:
    return Features(features.tokens[:, :1], features.mask[:, :1], features.pooled)


def _parts(features: Features) -> list[tuple[Tensor, Tensor]]:
    return [(features.tokens, features.mask), (features.pooled, features.present)]


def _gradient(part: Tensor) -> Tensor:
    return torch.zeros_like(part) if part.grad is None else part.grad


def _gradient_where(part: Tensor, where: Tensor) -> bool:
    """Whether some gradient, NaN included, stands in the chosen places."""
    return bool(_gradient(part)[where].ne(0).any())


ABSENCE = {
    "what is not real is not read": reads_only_what_is_real,
    "absence has no weight": gives_absence_no_weight,
    "padding length does not matter": does_not_see_the_length_of_padding,
    "every present modality matters": every_present_modality_matters,
    "the smallest batch is answered": answers_the_smallest_batch,
}
