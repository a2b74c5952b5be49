"""Modalities hidden in training."""

import pytest
import torch

from mmfuse import Features
from mmfuse.missing import ModalityDropout
from mmfuse.testing import random_features


def everything(batch: int, names: str = "abc") -> dict[str, Features]:
    """Every sample has every modality."""
    return {
        name: Features(torch.randn(batch, 2, 3), torch.ones(batch, 2).bool(), torch.randn(batch, 3)) for name in names
    }


def present(features: dict[str, Features]) -> torch.Tensor:
    return torch.stack([features[name].present for name in sorted(features)], dim=1)  # (batch, modality)


def test_evaluation_hides_nothing():
    features = random_features()

    result = ModalityDropout(0.9).eval()(features)

    assert all(result[name] is features[name] for name in features)


def test_the_last_modality_of_a_sample_stays_and_none_comes_back():
    torch.manual_seed(0)
    features = random_features()
    dropout = ModalityDropout(0.95)

    for _ in range(50):
        kept = present(dropout(features))
        assert torch.equal(kept.any(dim=1), present(features).any(dim=1))
        assert not (kept & ~present(features)).any()


def test_hides_whole_modalities_and_leaves_values_alone():
    torch.manual_seed(0)
    features = random_features()

    result = ModalityDropout(0.5)(features)

    assert list(result) == list(features)
    for name, x in features.items():
        stays = result[name].present
        assert torch.equal(result[name].mask, x.mask & stays[:, None])
        assert result[name].tokens is x.tokens
        assert result[name].pooled is x.pooled


def test_patterns_come_as_often_as_the_equation_says():
    torch.manual_seed(0)
    p, batch = {"a": 0.5, "b": 0.3, "c": 0.8}, 40_000

    kept = present(ModalityDropout(p)(everything(batch)))

    codes = (kept * torch.tensor([1, 2, 4])).sum(dim=1)
    for code in range(8):
        share = 1.0
        for bit, hidden in enumerate(p.values()):
            share *= 1 - hidden if code >> bit & 1 else hidden
        if code in (1, 2, 4):  # what would have lost all keeps one of three
            share += 0.5 * 0.3 * 0.8 / 3
        expected = 0.0 if code == 0 else share
        assert (codes == code).float().mean().item() == pytest.approx(expected, abs=0.01)


def test_a_modality_without_a_number_is_hidden_by_nobody():
    torch.manual_seed(0)

    kept = present(ModalityDropout({"b": 0.6})(everything(500)))

    assert kept[:, [0, 2]].all()
    assert 0.3 < kept[:, 1].float().mean() < 0.5


def test_one_draw_for_every_order_of_the_mapping():
    features = everything(20)
    dropout = ModalityDropout(0.5)

    torch.manual_seed(0)
    forward = present(dropout(features))
    torch.manual_seed(0)
    backward = present(dropout(dict(reversed(features.items()))))

    assert torch.equal(forward, backward)


def test_samples_are_hidden_independently():
    torch.manual_seed(0)

    kept = present(ModalityDropout(0.5)(everything(1000)))

    assert len(kept.unique(dim=0)) == 7


@pytest.mark.plain
def test_compiles_whole():
    dropout = torch.compile(ModalityDropout({"a": 0.5}), fullgraph=True, backend="eager")

    assert present(dropout(everything(50))).any(dim=1).all()


@pytest.mark.plain
def test_a_probability_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"ModalityDropout got p=1.5. Expected a share from 0 to below 1"):
        ModalityDropout(1.5)
    with pytest.raises(ValueError, match=r"ModalityDropout got text=-1. Expected a share"):
        ModalityDropout({"text": -1})
    with pytest.raises(ValueError, match="unknown modality 'txt'.* Did you mean 'text'"):
        ModalityDropout({"txt": 0.5})(random_features())
