"""Random changes to texts: what goes, what stays, and that it follows the seed."""

import pickle

import pytest
import torch

from mmfuse._record import arguments_of
from mmfuse.data.transforms import Augment, TextTransform, TokenDropout, train_tokenizer

TEXTS = ["a small red cup", "the blue plate", "the plate left of a cup"]
TEXT = "the plate left of a cup " * 8


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=60)


def dropping(tokenizer, share=0.3, **options):
    return Augment(TextTransform(tokenizer, 64), [TokenDropout(share, tokenizer.all_special_ids, **options)])


def test_some_words_go_and_special_tokens_stay(tokenizer):
    torch.manual_seed(0)
    augment = dropping(tokenizer)

    lengths = []
    for _ in range(50):
        ids = augment(TEXT)
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        lengths.append(len(ids) - 2)

    assert 0.6 < sum(lengths) / len(lengths) / 48 < 0.8
    assert len(set(lengths)) > 5
    assert (augment.random, augment.takes_path, augment.padding) == (True, False, tokenizer.pad_token_id)


def test_what_stays_keeps_its_order(tokenizer):
    dropout = TokenDropout(0.5)

    ids = dropout(torch.arange(100))

    assert 0 < len(ids) < 100
    assert (ids.diff() > 0).all()


def test_words_can_be_masked_instead(tokenizer):
    torch.manual_seed(0)
    plain = TextTransform(tokenizer, 64)(TEXT)

    ids = dropping(tokenizer, replace=tokenizer.mask_token_id)(TEXT)

    changed = ids != plain
    assert 5 < changed.sum() < 25
    assert (ids[changed] == tokenizer.mask_token_id).all()


def test_at_least_one_token_stays():
    dropout = TokenDropout(0.999)

    assert all(len(dropout(torch.tensor([7, 8]))) >= 1 for _ in range(20))


def test_pairs_keep_their_separators(tokenizer):
    inner = TextTransform(tokenizer, 64, columns=("premise", "hypothesis"))
    augment = Augment(inner, [TokenDropout(0.5, tokenizer.all_special_ids)])

    ids, lost = augment.batch([{"premise": TEXT, "hypothesis": TEXT}])

    assert augment.columns == ("premise", "hypothesis")
    assert (ids[0] == tokenizer.sep_token_id).sum() == 2
    assert lost == [99 - 64]  # what was dropped at random is not lost


def test_follows_the_seed_and_survives_pickle_and_its_record(tokenizer):
    augment = dropping(tokenizer)
    torch.manual_seed(0)
    expected = augment(TEXT)

    step = augment.steps[0]
    for copy in (pickle.loads(pickle.dumps(augment)), Augment(augment.transform, [type(step)(**arguments_of(step))])):
        torch.manual_seed(0)
        assert torch.equal(copy(TEXT), expected)


@pytest.mark.plain
def test_says_what_is_wrong_with_the_share():
    with pytest.raises(ValueError, match=r"TokenDropout got share=1\.0\. Expected a share from 0 to below 1"):
        TokenDropout(1.0)
