"""From files as they come to the tensors that encoders take; and what is said about files that cannot be read."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mmfuse._record import arguments_of
from mmfuse.data.transforms import TRANSFORMS, AudioTransform, ImageTransform, TextTransform, train_tokenizer

PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
TEXTS = ["a small red cup", "the blue plate", "the plate left of a cup"]


def picture(width=48, height=32):
    """Red on the left, blue on the right."""
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[:, : width // 2, 0] = 200
    values[:, width // 2 :, 2] = 200
    return Image.fromarray(values)


# text


def test_a_text_becomes_ids_with_special_tokens():
    tokenizer = train_tokenizer(TEXTS, vocab_size=60)

    ids = TextTransform(tokenizer, 8)("A red CUP")

    assert ids.dtype == torch.int64
    assert tokenizer.decode(ids) == "[CLS] a red cup [SEP]"


def test_a_long_text_is_cut_and_an_empty_one_is_not_absent():
    tokenizer = train_tokenizer(TEXTS, vocab_size=60)
    transform = TextTransform(tokenizer, 8)

    cut, empty = transform("the plate " * 50), transform("")

    assert len(cut) == 8
    assert cut[-1] == tokenizer.sep_token_id
    assert empty.tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    assert transform.blank().tolist() == [transform.padding] == [tokenizer.pad_token_id]


def test_a_tokenizer_without_a_limit_cuts_nothing():
    tokenizer = train_tokenizer(TEXTS, vocab_size=60)
    tokenizer.model_max_length = int(1e30)

    assert len(TextTransform(tokenizer)("the plate " * 400)) == 802


def test_the_same_texts_give_the_same_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    texts = [f"word{i % 37} and other{i % 11} things" for i in range(500)]

    one, other = train_tokenizer(texts, 90), train_tokenizer(iter(texts), 90)

    assert one.get_vocab() == other.get_vocab()
    assert len(one) == 90
    one.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("word3 things")["input_ids"] == one("word3 things")["input_ids"]
    assert loaded.model_max_length == 512


@pytest.mark.plain
def test_says_what_is_wrong_with_a_text():
    tokenizer = train_tokenizer(TEXTS, vocab_size=60)
    with pytest.raises(ValueError, match=r"The text is a float: nan\. Expected a string\. Read the column"):
        TextTransform(tokenizer, 8)(float("nan"))
    with pytest.raises(ValueError, match=r"train_tokenizer got vocab_size=.*Expected"):
        train_tokenizer(TEXTS, vocab_size=5)
    with pytest.raises(ValueError, match=r"max_length=2, but 2 special tokens stand in every text\. Expected.*Choose"):
        TextTransform(tokenizer, 2)
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"TextTransform got a tokenizer without padding token.*Expected.*Set it"):
        TextTransform(tokenizer, 8)


# all


def every_transform():
    return [
        ImageTransform(16, **PLAIN, crop_scale=[0.5, 1.0]),
        TextTransform(train_tokenizer(TEXTS, vocab_size=60), 8),
        AudioTransform(8000, max_seconds=1.0),
    ]


@pytest.mark.parametrize("transform", every_transform(), ids=lambda t: type(t).__name__)
def test_keeps_the_contract_of_a_transform(transform):
    value = {"ImageTransform": picture(), "TextTransform": "a cup", "AudioTransform": (torch.rand(900), 8000)}

    copies = [pickle.loads(pickle.dumps(transform)), type(transform)(**arguments_of(transform))]

    assert TRANSFORMS[type(transform).__name__] is type(transform)
    assert isinstance(transform.takes_path, bool) and isinstance(transform.random, bool)
    blank = transform.blank()
    for copy in copies:
        torch.manual_seed(0)
        expected = transform(value[type(transform).__name__])
        torch.manual_seed(0)
        torch.testing.assert_close(copy(value[type(transform).__name__]), expected)
        assert (blank.dtype, blank.dim()) == (expected.dtype, expected.dim())
        assert transform.padding is not None or blank.shape == expected.shape
