"""Token ids through a language model of transformers: (batch, time) -> Features."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mmfuse._checks import require_axes, require_choice
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.text import TextTransform, require_columns
from mmfuse.encoders._backbone import (
    WrappedEncoder,
    as_config,
    build,
    checkpoint_activations,
    layers_of,
    load,
    modules_at,
    plain_config,
    read_config,
    require_preset,
)
from mmfuse.encoders._inputs import token_mask
from mmfuse.layers.masking import masked_mean

# The usual initial spread, 0.02, suits a width of 768; narrow models learn several times slower from it.
PRESETS = {
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "initializer_range": 0.1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "small": {
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "intermediate_size": 768,
        "initializer_range": 0.06,
    },
}
STEM = ("embeddings", "embeddings_project", "encoder.rel_embeddings")


@recorded
class TextEncoder(WrappedEncoder):
    """Language model that reads in both directions: BERT, RoBERTa, DistilBERT, DeBERTa, ModernBERT, ELECTRA.

    Takes ids ``(batch, time)``, int64, with a mask; padding stands at the end, and what is masked may be any number.
    The tokens are the last hidden states. ``pooled`` is the first token (``[CLS]``) or the mean of the real ones.

    Two texts, such as a premise and a hypothesis, are read as one: ``[CLS] a [SEP] b [SEP]``, as the tokenizer joins
    them. Where the model knows types of tokens (BERT, ELECTRA) and the tokenizer makes them, all after the first
    separator are of the second type.

    BERT: Devlin et al., 2019, https://arxiv.org/abs/1810.04805

    Args:
        config: a plain dict with ``model_type``, as ``PretrainedConfig.to_dict()`` gives it. Random weights.
        tokenizer: the tokenizer of transformers that makes the ids. Its padding token is taken over.
        pool: "first" or "mean".
        freeze: "none", "all", or a number: the embeddings and so many of the lowest layers are not trained.
        attention: attention kernel of transformers ("sdpa", "eager", "flash_attention_2"); the best one if None.
        checkpointing: recompute activations in the backward pass; less memory, more time.
        columns: the column of the text, if not that of the modality; two columns for two texts.

    Raises:
        ValueError: if the tokenizer has ids that the model does not know, or no padding token; if ``pool``,
            ``freeze``, ``attention`` or ``checkpointing`` does not fit; in ``forward`` if a text is too long.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tokenizer: Any,
        *,
        pool: str = "first",
        freeze: int | str = "none",
        attention: str | None = None,
        checkpointing: bool = False,
        columns: Sequence[str] = (),
    ) -> None:
        super().__init__()
        require_choice("TextEncoder", "pool", pool, ("first", "mean"))
        require_columns("TextEncoder", columns)
        settings = _settings(config, tokenizer)
        self.pool = pool
        self.columns = tuple(columns)
        self.tokenizer = tokenizer
        self.pad_id = int(tokenizer.pad_token_id)
        self._adopt(build("TextEncoder", settings, attention), freeze, checkpointing)
        self.separator = _separator(self.backbone, tokenizer) if len(columns) == 2 else None
        self.max_length = _max_length(self.backbone, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        pool: str = "first",
        freeze: int | str = "none",
        attention: str | None = None,
        checkpointing: bool = False,
        columns: Sequence[str] = (),
    ) -> "TextEncoder":
        """The weights and the tokenizer of a hub name or a local folder."""
        read = plain_config(read_config("TextEncoder", name))
        config, tokenizer = plain_config(read.get("text_config") or read), _read_tokenizer(name)
        options: dict[str, Any] = {"pool": pool, "freeze": freeze, "attention": attention, "columns": columns}
        with torch.device("meta"):  # no time or memory for random weights that are replaced at once
            encoder = cls(config, tokenizer, checkpointing=checkpointing, **options)
        encoder._adopt(load("TextEncoder", name, _settings(config, tokenizer), attention), freeze, checkpointing)
        encoder.pretrained = True
        return encoder

    @classmethod
    def from_config(cls, config: Any, tokenizer: Any, **options: Any) -> "TextEncoder":
        """Random weights, from a ``PretrainedConfig`` or a dict; ``options`` are the keywords of the class."""
        return cls(plain_config(config), tokenizer, **options)

    @classmethod
    def preset(cls, name: str = "tiny", *, tokenizer: Any, max_length: int = 64, **options: Any) -> "TextEncoder":
        """A small BERT with random weights: "tiny" (0.1 million parameters and the vocabulary) or "small" (1.8)."""
        settings = require_preset("TextEncoder", name, PRESETS)
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": max_length}
        return cls({"model_type": "bert"} | settings | sizes, tokenizer, **options)

    def forward(self, input: Input) -> Features:
        self._require_ids(input)
        mask = token_mask(input)
        ids = input.values.masked_fill(~mask, self.pad_id)
        # A row without a real token reads its first padding: kernels disagree about rows that read nothing.
        read = torch.cat([mask[:, :1] | ~mask.any(dim=1, keepdim=True), mask[:, 1:]], dim=1)
        tokens = self.backbone(input_ids=ids, attention_mask=read.long(), **self._types(ids)).last_hidden_state
        return Features(tokens, mask, self._pool(tokens, mask))

    def transform(self, train: bool = False) -> TextTransform:  # noqa: ARG002 (no random changes to a text)
        """From a string to what ``forward`` takes."""
        return TextTransform(self.tokenizer, self.max_length, columns=self.columns)

    def _types(self, ids: Int[Tensor, "batch time"]) -> dict[str, Tensor]:
        """The type of each token, 1 after the first separator, for models that know types."""
        if self.separator is None:
            return {}
        ends = (ids == self.separator).long()
        return {"token_type_ids": (ends.cumsum(dim=1) - ends).clamp_max(1)}

    def _pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return tokens[:, 0] if self.pool == "first" else masked_mean(tokens, mask)

    def _require_ids(self, input: Input) -> None:
        require_axes("TextEncoder input", input.values, ("batch", "time"), "Make the ids with encoder.transform().")
        if input.values.shape[1] > self.max_length:
            raise ValueError(
                f"TextEncoder got {input.values.shape[1]} tokens. Expected at most {self.max_length}, the longest text "
                "that the model knows. Cut the texts with encoder.transform()."
            )

    def _adopt(self, backbone: Any, freeze: int | str, checkpointing: bool) -> None:
        """Take a model as the backbone."""
        if checkpointing:
            checkpoint_activations("TextEncoder", backbone)
        self.backbone = backbone
        self.dim = backbone.config.hidden_size
        self._freeze(freeze, modules_at(backbone, STEM), layers_of(backbone))


def _settings(config: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The config with the padding token of the tokenizer, which RoBERTa counts its positions by."""
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "TextEncoder got a tokenizer without padding token. Expected one that can fill a batch up. "
            "Set it with tokenizer.pad_token = '[PAD]' (or tokenizer.eos_token)."
        )
    vocab_size = getattr(as_config("TextEncoder", config), "vocab_size", None)
    largest = max(tokenizer.get_vocab().values(), default=0)
    if vocab_size is not None and largest >= vocab_size:
        raise ValueError(
            f"TextEncoder got a tokenizer with ids up to {largest} for a model with vocab_size={vocab_size}: tokenizer "
            f"and model do not match. Expected ids below {vocab_size}. Use the tokenizer of the model, or build it "
            f"with vocab_size={largest + 1}."
        )
    return dict(config) | {"pad_token_id": int(tokenizer.pad_token_id)}


def _separator(backbone: Any, tokenizer: Any) -> int | None:
    """The id that ends a segment, where model and tokenizer tell two segments apart by the type of their tokens."""
    types = getattr(backbone.config, "type_vocab_size", None) or 0
    if types < 2 or 1 not in tokenizer("a", "b", return_token_type_ids=True)["token_type_ids"]:
        return None  # RoBERTa's tokenizer makes one type only
    if tokenizer.sep_token_id is None:
        raise ValueError(
            "TextEncoder got a tokenizer without separator for two columns. Expected one that tells where the first "
            "text ends. Set it with tokenizer.sep_token = '[SEP]', or read one column."
        )
    return int(tokenizer.sep_token_id)


def _max_length(backbone: Any, tokenizer: Any) -> int:
    """Most tokens of a text. RoBERTa and its kin count their positions from the padding id on."""
    positions = getattr(backbone.config, "max_position_embeddings", None) or tokenizer.model_max_length
    skipped = getattr(backbone.embeddings, "padding_idx", None)
    return min(int(tokenizer.model_max_length), positions - (0 if skipped is None else skipped + 1))


def _read_tokenizer(name: str | Path) -> Any:
    from transformers import AutoTokenizer

    with suppress(OSError, ValueError):
        tokenizer = AutoTokenizer.from_pretrained(str(name))
        # Where the files are missing, transformers makes one that knows its special tokens and hardly a word.
        if len(tokenizer) > len(tokenizer.all_special_tokens) + 2:
            return tokenizer
    raise ValueError(
        f"TextEncoder found no tokenizer in '{name}'. Expected a tokenizer.json beside the weights. "
        "Save the tokenizer to the same folder with tokenizer.save_pretrained."
    )
