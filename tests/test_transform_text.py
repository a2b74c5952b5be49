"""Texts as people have them: one or two segments, any language and any string; what is cut, refused, and why."""

import random

import pytest
import torch

from mmfuse.data.transforms import TextTransform, train_tokenizer

TEXTS = ["a small red cup", "the blue plate", "the plate left of a cup"]
PAIR = ("premise", "hypothesis")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=60)


def pair(first, second):
    return dict(zip(PAIR, (first, second), strict=True))


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


# pairs


def test_a_pair_is_joined_as_the_tokenizer_joins_it(tokenizer):
    transform = TextTransform(tokenizer, 32, columns=PAIR)

    ids = transform(pair("a red cup", "the plate"))

    assert transform.columns == PAIR
    assert tokenizer.decode(ids) == "[CLS] a red cup [SEP] the plate [SEP]"
    assert ids.tolist() == tokenizer("a red cup", "the plate")["input_ids"]


def test_an_absent_segment_leaves_the_other_and_an_empty_one_is_an_empty_text(tokenizer):
    transform = TextTransform(tokenizer, 32, columns=PAIR)

    ids, lost = transform.batch([pair("a cup", None), pair("a cup", ""), pair(None, "a cup"), pair("", None)])

    assert [tokenizer.decode(x) for x in ids] == [
        "[CLS] a cup [SEP]",
        "[CLS] a cup [SEP] [SEP]",
        "[CLS] [SEP] a cup [SEP]",
        "[CLS] [SEP]",
    ]
    assert lost == [0, 0, 0, 0]


def test_one_column_of_another_name(tokenizer):
    transform = TextTransform(tokenizer, 32, columns=["title"])

    assert tokenizer.decode(transform({"title": "a cup"})) == "[CLS] a cup [SEP]"


@pytest.mark.parametrize("side", ["right", "left"])
def test_texts_and_pairs_are_cut_as_transformers_cuts_them(side):
    tokenizer = train_tokenizer(TEXTS, vocab_size=60)
    tokenizer.truncation_side = side
    rng = random.Random(0)
    words = " ".join(TEXTS).split()
    for _ in range(200):
        first, second = (" ".join(rng.choices(words, k=rng.randint(0, 14))) for _ in range(2))
        longest = rng.randint(4, 20)
        both = tokenizer([first], [second], truncation="longest_first", max_length=longest)["input_ids"][0]
        one = tokenizer(first, truncation=True, max_length=longest)["input_ids"]

        ids, lost = TextTransform(tokenizer, longest, columns=PAIR).batch([pair(first, second)])

        assert ids[0].tolist() == both
        assert lost == [len(tokenizer([first], [second])["input_ids"][0]) - len(both)]
        assert TextTransform(tokenizer, longest)(first).tolist() == one


# batches


def test_a_batch_is_the_same_as_one_text_after_another_and_counts_what_is_cut(tokenizer):
    transform = TextTransform(tokenizer, 8)
    texts = ["the plate " * 5, "a cup", "", "the plate " * 3]

    ids, lost = transform.batch(texts)

    assert [x.tolist() for x in ids] == [transform(text).tolist() for text in texts]
    assert lost == [4, 0, 0, 0]
    assert transform.batch([]) == ([], [])


@pytest.mark.plain
def test_a_long_text_is_refused_if_it_is_not_to_be_cut(tokenizer):
    transform = TextTransform(tokenizer, 8, truncate=False)

    assert len(transform("the plate " * 3)) == 8
    with pytest.raises(
        ValueError, match=r"has 12 tokens\. Expected at most 8, as truncate=False\. Set truncate=True .*max_length"
    ):
        transform("the plate " * 5)


# any string


STRINGS = {
    "white space": " \t\n\u3000",
    "unknown letters": "\u16a0\u16a2\u16a6",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "combining": "e" + "\u0301" * 500,
    "control": "\x00\x07\u202e\ufeff",
    "half a surrogate pair": "a \ud83d cup \ude00",
}


@pytest.mark.parametrize("text", STRINGS.values(), ids=STRINGS)
def test_every_string_is_a_text(text, tokenizer):
    ids = TextTransform(tokenizer, 16)(text)

    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert 2 <= len(ids) <= 16


def test_two_halves_of_a_surrogate_pair_are_one_letter():
    tokenizer = train_tokenizer(["a \U0001f600 cup"], vocab_size=60)

    assert tokenizer.decode(TextTransform(tokenizer, 16)("\ud83d\ude00")) == "[CLS] \U0001f600 [SEP]"


def test_bytes_are_read_as_utf8(tokenizer):
    transform = TextTransform(tokenizer, 16)

    assert transform("a r\u00e9d cup".encode()).tolist() == transform("a r\u00e9d cup").tolist()


@pytest.mark.parametrize("text", ["the plate " * 20_000, "x" * 1_000_000, "\u732b" * 100_000])
def test_an_endless_text_is_cut(text, tokenizer):
    ids, lost = TextTransform(tokenizer, 16).batch([text])

    assert len(ids[0]) == 16
    assert lost[0] > 10_000


# the trained tokenizer


LANGUAGES = {
    "German": ["die gr\u00f6\u00dfte T\u00fcr", "gr\u00f6\u00dfe"],
    "Vietnamese": ["ti\u1ebfng vi\u1ec7t", "vi\u1ec7t"],
    "Russian": [
        "\u043a\u0440\u0430\u0441\u043d\u0430\u044f \u0447\u0430\u0448\u043a\u0430",
        "\u0451\u043b\u043a\u0430",
    ],
    "Arabic": ["\u0643\u0648\u0628 \u0623\u062d\u0645\u0631", "\u0623\u062d\u0645\u0631"],
    "Hindi": ["\u0932\u093e\u0932 \u0915\u092a \u0939\u093f\u0928\u094d\u0926\u0940", "\u0915\u092a"],
    "Chinese": ["\u7ea2\u8272\u7684\u676f\u5b50", "\u676f\u5b50"],
    "Japanese": ["\u8d64\u3044\u30ab\u30c3\u30d7", "\u30ab\u30c3\u30d7\u304c"],
    "Korean": ["\ube68\uac04 \ucef5", "\ucef5"],
    "Thai": ["\u0e16\u0e49\u0e27\u0e22\u0e2a\u0e35\u0e41\u0e14\u0e07" * 20, "\u0e16\u0e49\u0e27\u0e22"],
}


@pytest.mark.parametrize("texts", LANGUAGES.values(), ids=LANGUAGES)
def test_no_language_loses_letters(texts):
    tokenizer = train_tokenizer(texts, vocab_size=300)
    transform = TextTransform(tokenizer, 512)

    for text in texts:
        ids = transform(text)

        assert tokenizer.unk_token_id not in ids
        back = tokenizer.decode(ids, skip_special_tokens=True)
        assert back.replace(" ", "") == text.lower().replace(" ", "")


def test_both_spellings_of_an_accent_are_one_letter(tokenizer):
    tokenizer = train_tokenizer(["caf\u00e9"], vocab_size=60)

    assert tokenizer("cafe\u0301")["input_ids"] == tokenizer("caf\u00e9")["input_ids"]
    assert tokenizer.unk_token_id not in tokenizer("cafe\u0301")["input_ids"]


@pytest.mark.plain
def test_says_what_is_wrong_with_columns_and_cells(tokenizer):
    for columns in ("ab", ("a", "b", "c"), ("a", "a")):
        with pytest.raises(ValueError, match=r"TextTransform got columns=.*Expected the name of one column, or of two"):
            TextTransform(tokenizer, 16, columns=columns)
    transform = TextTransform(tokenizer, 16, columns=PAIR)
    with pytest.raises(ValueError, match=r"The text is a str\. Expected a mapping with the columns \['premise', 'hyp"):
        transform("a cup")
    with pytest.raises(ValueError, match=r"The text is no \['hypothesis'\]\. Expected a mapping.*Leave a column"):
        transform({"premise": "a cup"})
    with pytest.raises(ValueError, match=r"bytes that are not UTF-8 \(.* at byte 2\)\. Expected UTF-8\. Decode it"):
        TextTransform(tokenizer, 16)(b"a \xff cup")
    with pytest.raises(ValueError, match=r"max_length=3, but 3 special tokens stand in every text"):
        TextTransform(tokenizer, 3, columns=PAIR)
    with pytest.raises(ValueError, match=r"The text is a list: .{80}\. Expected a string") as caught:
        TextTransform(tokenizer, 16)(["a cup"] * 100)
    assert len(str(caught.value)) < 300
