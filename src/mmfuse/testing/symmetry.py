"""Promises about what must not matter: order, names, neighbours."""

from dataclasses import replace

import torch

from mmfuse.testing.samples import Case, assert_close, assert_same, rows


def does_not_see_the_order_of_modalities(case: Case) -> None:
    """A reversed mapping gives the same result."""
    fusion, features = case.fusion(), case.features()
    backwards = dict(reversed(features.items()))
    assert_same(fusion(backwards), fusion(features), "another order of the mapping changes the result")


def does_not_see_names(case: Case) -> None:
    """Modalities of other names, with the same parameters, give the same result."""
    renamed = {name: f"my_{name}" for name in case.dims}
    fusion, other = case.fusion(), case.fusion(seed=1, dims={renamed[name]: dim for name, dim in case.dims.items()})
    other.load_state_dict({_rename(key, renamed): value for key, value in fusion.state_dict().items()})
    expected, features = fusion(case.features()), case.features()
    result = other({renamed[name]: x for name, x in features.items()})
    weights = {name: result.weights[renamed[name]] for name in expected.weights}
    penalties = dict(zip(expected.penalties, result.penalties.values(), strict=True))
    assert_same(replace(result, weights=weights, penalties=penalties), expected, "other names change the result")


def does_not_mix_samples(case: Case) -> None:
    """Each sample alone gives its row of the batch, and another order of samples another order of rows."""
    fusion, features = case.fusion(), case.features()
    together = fusion(features)
    for row in range(len(together.features.pooled)):
        alone = fusion(rows(features, [row]))
        for what, one, many in (
            ("pooled", alone.features.pooled, together.features.pooled),
            ("tokens", alone.features.zeroed().tokens, together.features.zeroed().tokens),
            *((f"weights[{name!r}]", alone.weights[name], weight) for name, weight in together.weights.items()),
        ):
            assert_close(one[0], many[row], f"{what} of sample {row} alone is not its row of the batch")
    order = torch.arange(len(together.features.pooled)).flip(0)
    turned = fusion(rows(features, order)).features.pooled
    assert_close(turned, together.features.pooled[order], "another order of the samples changes the result")


def _rename(key: str, names: dict[str, str]) -> str:
    """A key of a state dict, with the names of modalities replaced."""
    return ".".join(names.get(part, part) for part in key.split("."))


SYMMETRY = {
    "the order of modalities does not matter": does_not_see_the_order_of_modalities,
    "names do not matter": does_not_see_names,
    "samples do not mix": does_not_mix_samples,
}
