"""Promises about parameters: all of them learn, all of them are saved, and their gradients are right."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from mmfuse.contracts import Features
from mmfuse.testing.samples import Case, assert_same, loss_of, real, spoiled


def learns_with_every_parameter(case: Case) -> None:
    """A finite gradient reaches each parameter, not zero."""
    fusion = case.fusion()
    loss_of(fusion(case.features())).backward()
    for name, parameter in fusion.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None or not parameter.grad.any():
            raise AssertionError(f"no gradient reaches {name}")
        if not parameter.grad.isfinite().all():
            raise AssertionError(f"the gradient of {name} is not finite")


def saves_all_that_it_reads(case: Case) -> None:
    """Another one with the same state dict gives the same result: nothing that it reads stands outside."""
    fusion, other = case.fusion(seed=0), case.fusion(seed=1)
    other.load_state_dict(fusion.state_dict())
    features = case.features()
    assert_same(other(features), fusion(features), "another one, given the same state dict, differs")


def has_right_gradients(case: Case) -> None:
    """The gradients of the inputs agree with finite differences."""
    fusion, features = case.fusion(), case.features()
    inputs = [tensor.requires_grad_() for x in features.values() for tensor in (x.tokens, x.pooled)]

    def result(*values: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(features.items(), values[::2], values[1::2], strict=True)
        fused = fusion({name: replace(x, tokens=tokens, pooled=pooled) for (name, x), tokens, pooled in pairs})
        return tuple(part for part in real(fused).values() if part.requires_grad)

    torch.autograd.gradcheck(result, inputs, fast_mode=True, rtol=1e-3, atol=1e-5)


def trains_without_reading_what_is_not_real(case: Case) -> None:
    """In training mode too, NaN under every False changes nothing, and results and gradients are finite."""
    fusion = case.fusion().train()
    state = copy.deepcopy(fusion.state_dict())
    results = []
    for features in (case.features(), spoiled(case.features(), float("nan"))):
        fusion.load_state_dict(state)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            results.append(fusion(_leaves(features)))
    loss_of(results[1]).backward()
    assert_same(results[1], results[0], "in training, NaN where nothing is real changes the result")
    for name, parameter in fusion.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise AssertionError(f"in training, the gradient of {name} is not finite")


def _leaves(features: dict[str, Features]) -> dict[str, Features]:
    """A copy that is no part of another graph."""
    return {name: replace(x, tokens=x.tokens.clone(), pooled=x.pooled.clone()) for name, x in features.items()}


LEARNING = {
    "every parameter learns": learns_with_every_parameter,
    "the state dict holds all": saves_all_that_it_reads,
    "gradients are right": has_right_gradients,
    "training reads only what is real": trains_without_reading_what_is_not_real,
}
