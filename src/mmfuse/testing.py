"""The promises of a fusion, as checks that anybody can run on a fusion of their own.

    check_fusion(lambda dims: MyFusion(dims, dim=8))

Each promise is a function that takes a fusion and features in float64, and raises AssertionError saying what broke.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from mmfuse.contracts import Features, Fused

DIMS = {"text": 6, "audio": 4, "image": 5}
TIMES = {"text": 5, "audio": 7, "image": 3}
Promise = Callable[[nn.Module, dict[str, Features]], None]


def check_fusion(make: Callable[[Mapping[str, int]], nn.Module], *, dims: Mapping[str, int] = DIMS) -> None:
    """Raise AssertionError, naming the promise, unless a fusion keeps all of ``FUSION_PROMISES``.

    Args:
        make: builds the fusion from the width of each modality.
        dims: modalities and widths to build it with.
    """
    for name, promise in FUSION_PROMISES.items():
        torch.manual_seed(0)
        fusion = make(dims).double().eval()
        _shake(fusion)
        try:
            promise(fusion, random_features(dims))
        except Exception as error:
            raise AssertionError(f"{type(fusion).__name__} breaks the promise {name!r}: {error}") from error


def random_features(dims: Mapping[str, int] = DIMS, *, seed: int = 0) -> dict[str, Features]:
    """Six samples in float64: all modalities, each one missing once, one alone, none at all; padding in all."""
    generator = torch.Generator().manual_seed(seed)
    features = {}
    for place, (name, dim) in enumerate(dims.items()):
        time = TIMES.get(name, 4 + place)
        lengths = torch.tensor([time, time - 1, max(time - 2, 1), time, 1, 0])
        lengths[1 + place % 3] = 0  # the samples 1, 2 and 3 lack one modality each
        lengths[4] = 1 if place == 0 else 0  # sample 4 has only the first modality
        features[name] = Features(
            tokens=torch.randn(6, time, dim, generator=generator, dtype=torch.float64),
            mask=torch.arange(time) < lengths[:, None],
            pooled=torch.randn(6, dim, generator=generator, dtype=torch.float64),
        )
    return features


def reads_only_what_is_real(fusion: nn.Module, features: dict[str, Features]) -> None:
    """NaN under every False: the same results, and finite gradients."""
    expected = fusion(features)
    nan = float("nan")
    spoiled = {
        name: replace(
            x,
            tokens=x.tokens.masked_fill(~x.mask[..., None], nan),
            pooled=x.pooled.masked_fill(~x.present[:, None], nan),
        )
        for name, x in features.items()
    }
    result = fusion(spoiled)
    _assert_same(result, expected, "NaN where nothing is real changes the result")
    _loss(result).backward()
    for name, parameter in fusion.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise AssertionError(f"NaN where nothing is real reaches the gradient of {name}")


def gives_absence_no_weight(fusion: nn.Module, features: dict[str, Features]) -> None:
    """Reported weights are 0 where absent, and sum to 1 over the present."""
    weights = fusion(features).weights
    if not weights:
        return
    if set(weights) != set(features):
        raise AssertionError(f"weights are reported for {sorted(weights)}, not for {sorted(features)}")
    for name, weight in weights.items():
        if (absent := weight[~features[name].present]).any():
            raise AssertionError(f"where {name!r} is absent its weight is {absent.tolist()}, not 0")
    somebody = torch.stack([x.present for x in features.values()]).any(dim=0)
    total = torch.stack(list(weights.values())).sum(dim=0)
    _assert_close(total, somebody.to(total), "weights do not sum to 1 over the present modalities")


def does_not_see_the_length_of_padding(fusion: nn.Module, features: dict[str, Features]) -> None:
    """Two more padded steps change nothing."""
    longer = {name: _pad(x, 2) for name, x in features.items()}
    _assert_same(fusion(longer), fusion(features), "two more padded steps change the result")


def does_not_see_the_order_of_modalities(fusion: nn.Module, features: dict[str, Features]) -> None:
    """A reversed mapping gives the same result."""
    backwards = dict(reversed(features.items()))
    _assert_same(fusion(backwards), fusion(features), "another order of the mapping changes the result")


def does_not_mix_samples(fusion: nn.Module, features: dict[str, Features]) -> None:
    """Each sample alone gives its row of the batch."""
    together = fusion(features)
    for row in range(len(next(iter(features.values())).pooled)):
        alone = fusion({name: _row(x, row) for name, x in features.items()})
        for what, one, many in (
            ("pooled", alone.features.pooled, together.features.pooled),
            *((f"weights[{name!r}]", alone.weights[name], weight) for name, weight in together.weights.items()),
        ):
            _assert_close(one[0], many[row], f"{what} of sample {row} alone is not its row of the batch")


def learns_with_every_parameter(fusion: nn.Module, features: dict[str, Features]) -> None:
    """A gradient reaches each parameter, not zero."""
    _loss(fusion(features)).backward()
    for name, parameter in fusion.named_parameters():
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any()):
            raise AssertionError(f"no gradient reaches {name}")


def compiles_whole(fusion: nn.Module, features: dict[str, Features]) -> None:
    """One graph without a break, and the same result."""
    compiled = torch.compile(fusion, fullgraph=True, backend="eager")
    _assert_same(compiled(features), fusion(features), "torch.compile changes the result")


FUSION_PROMISES: dict[str, Promise] = {
    "what is not real is not read": reads_only_what_is_real,
    "absence has no weight": gives_absence_no_weight,
    "padding length does not matter": does_not_see_the_length_of_padding,
    "the order of modalities does not matter": does_not_see_the_order_of_modalities,
    "samples do not mix": does_not_mix_samples,
    "every parameter learns": learns_with_every_parameter,
    "it compiles whole": compiles_whole,
}


def _shake(fusion: nn.Module) -> None:
    """Move every parameter off its initial value: a zero or a one there can hide a fault."""
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def _loss(fused: Fused) -> Tensor:
    """A number that depends on every real value of a fusion's result."""
    tokens = fused.features.tokens[fused.features.mask]
    parts = [fused.features.pooled, tokens, *fused.weights.values(), *fused.penalties.values()]
    return sum((part * torch.cos(torch.arange(part.numel())).reshape(part.shape)).sum() for part in parts)  # type: ignore[return-value]


def _real(fused: Fused) -> dict[str, Any]:
    """What may be compared: real tokens only, since the others are unspecified."""
    features = fused.features
    pooled = features.pooled.masked_fill(~features.present[:, None], 0.0)
    return {"pooled": pooled, "tokens": features.tokens[features.mask], **fused.weights, **fused.penalties}


def _assert_same(actual: Fused, expected: Fused, what: str) -> None:
    for name, value in _real(expected).items():
        _assert_close(_real(actual)[name], value, f"{what} ({name})")


def _assert_close(actual: Tensor, expected: Tensor, what: str) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9, msg=lambda text: f"{what}. {text}")


def _pad(features: Features, steps: int) -> Features:
    tokens, mask = features.tokens, features.mask
    return replace(
        features,
        tokens=torch.cat([tokens, tokens.new_full((len(tokens), steps, tokens.shape[2]), 1e4)], dim=1),
        mask=torch.cat([mask, mask.new_zeros(len(mask), steps)], dim=1),
    )


def _row(features: Features, row: int) -> Features:
    return pytree.tree_map(lambda x: x[row : row + 1], features)
