"""Strings -> token ids, in one segment or two."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mmfuse._record import recorded


@recorded
class TextTransform:
    """Split a text, or a pair of texts, into the ids of a tokenizer, special tokens included.

    What is too long is cut off at the end (at the start if the tokenizer says ``truncation_side="left"``); of two
    texts the longer one is cut first, down to the length of the other, then both. ``batch`` counts what is cut.

    Every string is a text: also an empty one, one of unknown letters, and half a surrogate pair, which counts as
    U+FFFD. Bytes are read as UTF-8.

    Args:
        tokenizer: a tokenizer of transformers with a padding token.
        max_length: largest number of ids, special tokens included; what the tokenizer says if None.
        truncate: cut what is longer; False: it is refused.
        columns: one column to read instead of that of the modality, or two, such as ``("premise", "hypothesis")``:
            then a value maps them to texts, and the ids are those of ``[CLS] a [SEP] b [SEP]``, as the tokenizer
            joins pairs. A second text of None leaves the first alone; a first one counts as empty.

    Raises:
        ValueError: for what is not a string or UTF-8; for a text that is too long, if it is not to be cut; for a
            tokenizer without padding token.
    """

    takes_path = False
    random = False

    def __init__(
        self, tokenizer: Any, max_length: int | None = None, *, truncate: bool = True, columns: Sequence[str] = ()
    ) -> None:
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "TextTransform got a tokenizer without padding token. Expected one that can fill a batch up. "
                "Set it with tokenizer.pad_token = '[PAD]' (or tokenizer.eos_token)."
            )
        require_columns("TextTransform", columns)
        self.tokenizer = tokenizer
        self.truncate = truncate
        if columns:
            self.columns = tuple(columns)
        self._pair = len(columns) == 2
        # A tokenizer without a limit says 1e30, which its own code cannot count to.
        self.max_length = min(int(tokenizer.model_max_length if max_length is None else max_length), 2**31 - 1)
        if self.max_length <= (special := tokenizer.num_special_tokens_to_add(pair=self._pair)):
            raise ValueError(
                f"TextTransform got max_length={self.max_length}, but {special} special tokens stand in every text. "
                "Expected room for words beside them. Choose a larger max_length."
            )
        self.padding = int(tokenizer.pad_token_id)

    def __call__(self, value: Any) -> Int[Tensor, " time"]:
        return self.batch([value])[0][0]

    def batch(self, values: Sequence[Any]) -> tuple[list[Tensor], list[int]]:
        """All texts of a batch, in one call of the tokenizer, and how many ids each has lost."""
        texts = [self._texts(value) for value in values]
        made: list[tuple[list[int], int]] = [([], 0)] * len(texts)
        for paired in (False, True):
            rows = [row for row, text in enumerate(texts) if (len(text) == 2) == paired]
            for row, ids in zip(rows, self._encode([texts[row] for row in rows]), strict=True):
                made[row] = ids
        # A tokenizer without special tokens makes nothing of an empty text.
        found = [np.array(each or [self.padding], dtype=np.int64) for each, _ in made]  # in half of torch's time
        return [torch.from_numpy(each) for each in found], [lost for _, lost in made]

    def lengths(self, values: Sequence[Any]) -> list[int]:
        """How many ids each text becomes."""
        return [len(ids) for ids in self.batch(values)[0]]

    def blank(self) -> Int[Tensor, " time"]:
        """What stands in for an absent text."""
        return torch.tensor([self.padding], dtype=torch.int64)

    def _texts(self, value: Any) -> tuple[str, ...]:
        """The segments: one or two."""
        if not hasattr(self, "columns"):
            return (as_text(value),)
        if not isinstance(value, Mapping) or (missing := [name for name in self.columns if name not in value]):
            got = f"no {missing}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
            raise ValueError(
                f"The text is {got}. Expected a mapping with the columns {list(self.columns)}. "
                "Leave a column that has no text empty (None)."
            )
        first, *second = (value[name] for name in self.columns)
        return (as_text("" if first is None else first), *(as_text(text) for text in second if text is not None))

    def _encode(self, texts: Sequence[tuple[str, ...]]) -> list[tuple[list[int], int]]:
        """The ids of texts that all have one segment, or all have two, and how many each has lost."""
        if not texts:
            return []
        made = self.tokenizer(
            *map(list, zip(*texts, strict=True)),
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # it would complain of long texts that we are about to cut
        )
        return [
            (ids, 0) if len(ids) <= self.max_length else self._cut(ids, made.sequence_ids(row))
            for row, ids in enumerate(made["input_ids"])
        ]

    def _cut(self, ids: list[int], segments: list[int | None]) -> tuple[list[int], int]:
        """What fits of a text: as the tokenizer would cut it, but with one call for all texts."""
        if not self.truncate:
            raise ValueError(
                f"The text has {len(ids)} tokens. Expected at most {self.max_length}, as truncate=False. "
                "Set truncate=True to have it cut and counted, or a larger max_length, or shorten the text."
            )
        counts = segments.count(0), segments.count(1)
        keep = _shares(*counts, self.max_length - (len(ids) - sum(counts)))
        left = self.tokenizer.truncation_side == "left"
        cut = ids
        for segment in (1, 0):  # from the end, so that what is to be cut stays in its place
            if lost := counts[segment] - keep[segment]:
                start = segments.index(segment) + (0 if left else keep[segment])
                cut = cut[:start] + cut[start + lost :]
        return cut, len(ids) - len(cut)


def require_columns(owner: str, columns: Sequence[str]) -> None:
    """Raise ValueError unless there are at most two different names."""
    if isinstance(columns, str) or len(columns) > 2 or len(set(columns)) != len(columns):
        raise ValueError(
            f"{owner} got columns={columns!r}. Expected the name of one column, or of two different ones, in a tuple. "
            "Join more texts into one column first."
        )


def as_text(value: Any) -> str:
    """A cell as a string that every tokenizer takes; ValueError if it is not text."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"The text is bytes that are not UTF-8 ({error.reason} at byte {error.start}). Expected UTF-8. "
                "Decode it with the encoding that it was written in."
            ) from None
    if not isinstance(value, str):
        raise ValueError(
            f"The text is a {type(value).__name__}: {value!r:.80}. Expected a string. "
            "Read the column as text, and leave the cell empty (None) where there is none."
        )
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair; two halves become the letter that they stand for
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many ids of two segments stay: the longer one is cut to what is left, both if neither leaves enough."""
    short, long = min(first, second), max(first, second)
    if short + long > room:
        long = max(short, room - short)
    if short + long > room:
        short, long = room // 2, room - room // 2
    return (short, long) if first <= second else (long, short)
