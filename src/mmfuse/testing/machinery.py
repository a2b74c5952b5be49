"""Promises to PyTorch: compile, export, low precision, copies, and no side effects."""

import copy

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmfuse.testing.samples import Case, assert_same, cast, padded, present_anywhere, real, rows


def compiles_whole(case: Case) -> None:
    """One graph without a break, and the same result."""
    fusion, features = case.fusion(), case.features()
    compiled = torch.compile(fusion, fullgraph=True, backend="eager")
    assert_same(compiled(features), fusion(features), "torch.compile changes the result")


def exports(case: Case) -> None:
    """``torch.export`` takes it whole, for batches and sequences of any size."""
    fusion, features = case.fusion(), case.features()
    shapes = torch.export.ShapesCollection()
    for x in features.values():
        shapes[x.tokens] = shapes[x.mask] = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
        shapes[x.pooled] = {0: torch.export.Dim.AUTO}
    exported = torch.export.export(fusion, (features,), dynamic_shapes=shapes, strict=False).module()
    assert_same(exported(features), fusion(features), "torch.export changes the result")
    other = padded(rows(features, [0, 2, 3]), 2)
    assert_same(exported(other), fusion(other), "the exported program is wrong for another size")


def agrees_in_low_precision(case: Case) -> None:
    """bfloat16 autocast agrees with float32, and a type that goes in comes out."""
    fusion, there = case.fusion().float(), present_anywhere(case.features())
    features = cast(case.features(), torch.float32)
    exact = fusion(features)
    with torch.autocast("cpu", torch.bfloat16):
        rough = fusion(features)
    _require_near(rough.features.pooled[there], exact.features.pooled[there], "bfloat16 autocast")
    for name, weight in rough.weights.items():
        if (weight.float() - exact.weights[name]).abs().max() > 0.02:
            raise AssertionError(f"bfloat16 autocast changes the weight of {name!r} by more than 0.02")
    _require_dtype(exact.features, torch.float32)
    low = fusion.bfloat16()(cast(features, torch.bfloat16))
    _require_dtype(low.features, torch.bfloat16)
    _require_near(low.features.pooled[there], exact.features.pooled[there], "a bfloat16 model")


def changes_no_input(case: Case) -> None:
    """What goes in stays as it was, the mapping included."""
    fusion, features = case.fusion(), case.features()
    before, names = copy.deepcopy(features), list(features)
    fusion(features)
    if list(features) != names:
        raise AssertionError(f"the mapping that went in has changed from {names} to {list(features)}")
    for name, x in features.items():
        for part, (now, then) in enumerate(zip(pytree.tree_leaves(x), pytree.tree_leaves(before[name]), strict=True)):
            if not torch.equal(now, then):
                raise AssertionError(f"part {part} of the features {name!r} was changed in place")


def is_the_same_every_time(case: Case) -> None:
    """In evaluation mode it draws no random number, keeps nothing, and gives the same again."""
    fusion, features = case.fusion(), case.features()
    state, generator = copy.deepcopy(fusion.state_dict()), torch.get_rng_state()
    first, second = fusion(features), fusion(features)
    if not torch.equal(generator, torch.get_rng_state()):
        raise AssertionError("in evaluation mode it draws from the global random generator")
    for name, tensor in fusion.state_dict().items():
        if not torch.equal(tensor, state[name]):
            raise AssertionError(f"in evaluation mode it changes its own {name}")
    for name, value in real(first).items():
        if not torch.equal(value, real(second)[name]):
            raise AssertionError(f"the second call gives another {name}")


def can_be_copied(case: Case) -> None:
    """A deep copy gives the same and shares nothing."""
    fusion, features = case.fusion(), case.features()
    twin = copy.deepcopy(fusion)
    assert_same(twin(features), fusion(features), "a deep copy differs")
    expected = fusion(features)
    _spoil(twin)
    assert_same(fusion(features), expected, "a deep copy shares parameters with its original")


def _spoil(fusion: nn.Module) -> None:
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.fill_(1.0)


def _require_near(rough: Tensor, exact: Tensor, what: str) -> None:
    if not rough.isfinite().all():
        raise AssertionError(f"{what} gives values that are not finite")
    likeness = torch.cosine_similarity(rough.float().flatten(), exact.flatten(), dim=0)
    if likeness < 0.995:
        raise AssertionError(f"{what} differs from float32: the cosine between them is {likeness:.4f}")


def _require_dtype(features: object, dtype: torch.dtype) -> None:
    for name in ("tokens", "pooled"):
        if (found := getattr(features, name).dtype) != dtype:
            raise AssertionError(f"{dtype} goes in and {found} comes out as {name}")


MACHINERY = {
    "it compiles whole": compiles_whole,
    "it exports": exports,
    "low precision agrees": agrees_in_low_precision,
    "inputs stay as they were": changes_no_input,
    "evaluation is repeatable": is_the_same_every_time,
    "it can be copied": can_be_copied,
}
