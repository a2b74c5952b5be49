"""Strings -> token ids, and a tokenizer trained without any download."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mmfuse._checks import require_positive
from mmfuse._record import recorded

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"} | {
    "mask_token": "[MASK]"
}


@recorded
class TextTransform:
    """Split a text into the ids of a tokenizer, special tokens included; what is too long is cut off at the end.

    Args:
        tokenizer: a tokenizer of transformers with a padding token.
        max_length: largest number of ids, special tokens included; what the tokenizer says if None.

    Raises:
        ValueError: for what is not a string; for a tokenizer without padding token.
    """

    takes_path = False
    random = False

    def __init__(self, tokenizer: Any, max_length: int | None = None) -> None:
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "TextTransform got a tokenizer without padding token. Expected one that can fill a batch up. "
                "Set it with tokenizer.pad_token = '[PAD]' (or tokenizer.eos_token)."
            )
        self.tokenizer = tokenizer
        # A tokenizer without a limit says 1e30, which its own code cannot count to.
        self.max_length = min(int(tokenizer.model_max_length if max_length is None else max_length), 2**31 - 1)
        if self.max_length <= (special := tokenizer.num_special_tokens_to_add()):
            raise ValueError(
                f"TextTransform got max_length={self.max_length}, but {special} special tokens stand in every text. "
                "Expected room for words beside them. Choose a larger max_length."
            )
        self.padding = int(tokenizer.pad_token_id)

    def __call__(self, value: Any) -> Int[Tensor, " time"]:
        if not isinstance(value, str):
            raise ValueError(
                f"The text is a {type(value).__name__}: {value!r}. Expected a string. "
                "Read the column as text, and leave the cell empty (None) where there is none."
            )
        ids = self.tokenizer(value, truncation=True, max_length=self.max_length)["input_ids"]
        return torch.tensor(ids or [self.padding], dtype=torch.int64)

    def blank(self) -> Int[Tensor, " time"]:
        """What stands in for an absent text."""
        return torch.tensor([self.padding], dtype=torch.int64)


def train_tokenizer(texts: Iterable[str | None], vocab_size: int = 4000, *, max_length: int = 512) -> Any:
    """A WordPiece tokenizer in the manner of BERT, lower case, learnt from ``texts``; the same for the same texts.

    Devlin et al., 2019, https://arxiv.org/abs/1810.04805

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
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
