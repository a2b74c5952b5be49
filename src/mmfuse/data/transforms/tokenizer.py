"""A tokenizer trained on the spot, without any download."""

from collections.abc import Iterable
from typing import Any

from mmfuse._checks import require_positive

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"} | {
    "mask_token": "[MASK]"
}
LONGEST_WORD = 50  # letters; longer runs are cut: time grows with their square, and WordPiece knows none above 100


def train_tokenizer(texts: Iterable[str | None], vocab_size: int = 4000, *, max_length: int = 512) -> Any:
    """A WordPiece tokenizer in the manner of BERT, lower case, learnt from ``texts``; the same for the same texts.

    Devlin et al., 2019, https://arxiv.org/abs/1810.04805

    Unlike theirs, it keeps accents and vowel signs (in Thai and Hindi they are letters, to say the least), and cuts
    words after 50 letters, so that a line of Thai without a space is pieces of words and not one unknown word.

    Args:
        texts: what to learn from; None, an absent text, is passed over.
        vocab_size: largest number of ids, except that every letter gets one; fewer if the texts do not hold so many.
        max_length: ``model_max_length`` of the tokenizer.
    """
    from tokenizers import decoders, models, processors
    from transformers import PreTrainedTokenizerFast

    require_positive("train_tokenizer", vocab_size=vocab_size - len(SPECIAL))
    vocabulary = _learn_pieces([text for text in texts if text is not None], vocab_size)
    tokenizer = _bert_tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **SPECIAL)


def _learn_pieces(texts: list[str], vocab_size: int) -> dict[str, int]:
    """The vocabulary. The trainer numbers inner letters in the order of a random hash; given first, they are sorted."""
    from tokenizers import models, trainers

    tokenizer = _bert_tokenizer(models.WordPiece(unk_token="[UNK]"))
    normal = [tokenizer.normalizer.normalize_str(text) for text in texts]
    words = {word for text in normal for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)}
    inner = sorted({f"##{letter}" for word in words for letter in word[1:]})
    first = [*SPECIAL.values(), *inner]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))


def _bert_tokenizer(model: Any) -> Any:
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.BertNormalizer(strip_accents=False, lowercase=True)]
    )
    long_words = pre_tokenizers.Split(Regex(rf".{{{LONGEST_WORD}}}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), long_words])
    return tokenizer
