"""Tiny models and inputs that the tests of the encoders share. Nothing is downloaded."""

import copy
import math

import torch
from torch import nn

from mmfuse import Input

VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48} | {
    "image_size": 32,
    "patch_size": 8,
}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
BERT = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4} | {
    "intermediate_size": 48,
    "max_position_embeddings": 72,
    "pad_token_id": 0,
}
DISTILBERT = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48} | {
    "max_position_embeddings": 72,
    "pad_token_id": 0,
}
MODERNBERT = BERT | {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
DEBERTA = (
    BERT
    | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    | {
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "type_vocab_size": 0,
    }
)
SPEECH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48} | {
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}

IMAGE_MODELS = {
    "vit": VIT,
    "dinov2": VIT,
    "siglip_vision_model": VIT,
    "clip_vision_model": VIT,
    "swin": SWIN,
}
TEXT_MODELS = {
    "bert": BERT,
    "roberta": BERT,
    "distilbert": DISTILBERT,
    "electra": BERT | {"embedding_size": 16},
    "modernbert": MODERNBERT,
    "deberta-v2": DEBERTA,
}
# WavLM and wav2vec2 and HuBERT, each with the norm of the base and of the large checkpoints.
SPEECH_MODELS = {
    f"{family}-{norm}": SPEECH
    | {"model_type": family, "feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    | {"conv_bias": norm == "layer"}
    for family in ("wav2vec2", "hubert", "wavlm")
    for norm in ("group", "layer")
}


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest value."""
    return ((got - expected).abs().max() / expected.abs().max()).item()


def without_dropout(config: dict) -> dict:
    """The config with every probability of dropout set to zero, so that training repeats exactly."""
    from transformers import AutoConfig

    made = AutoConfig.for_model(config["model_type"], **{k: v for k, v in config.items() if k != "model_type"})
    off = {k: 0.0 for k, v in made.to_dict().items() if "drop" in k and isinstance(v, float) and k != "layerdrop"}
    return copy.deepcopy(config) | off


def require_finite_gradients(encoder: nn.Module, features) -> None:
    """Backward through what is real; every trainable parameter gets a finite gradient."""
    real = features.zeroed()
    weights = torch.linspace(-1, 1, encoder.dim)
    loss = (real.tokens * weights).square().mean() + (real.pooled * weights).sin().mean()
    loss.backward()
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} got no gradient"
            assert parameter.grad.isfinite().all(), f"{name} got a gradient that is not finite"


def clips(lengths: list[int], time: int | None = None, fill: float = 0.0, seed: int = 0) -> Input:
    """Noise over a tone, of these lengths in samples; ``fill`` stands in the padding. Length 0: absent."""
    time = time or max(lengths)
    generator = torch.Generator().manual_seed(seed)
    values = torch.full((len(lengths), time), fill)
    for i, length in enumerate(lengths):
        tone = torch.sin(torch.arange(length) * 2 * math.pi * 220 * (i + 1) / 16000)
        values[i, :length] = tone + 0.3 * torch.randn(length, generator=generator)
    counts = torch.tensor(lengths)
    return Input(values, counts > 0, torch.arange(time) < counts[:, None])
