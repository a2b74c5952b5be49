"""Waveforms through a speech model of transformers, unchanged by padding: (batch, time) -> Features."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmfuse._checks import require_axes
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.audio import AudioTransform
from mmfuse.encoders._backbone import (
    WrappedEncoder,
    build,
    checkpoint_activations,
    load,
    modules_at,
    plain_config,
    read_config,
    require_preset,
)
from mmfuse.encoders._inputs import real_lengths
from mmfuse.layers.masking import masked_mean, wide

FAMILIES = ("wav2vec2", "hubert", "wavlm")
# Random loss of layers and of stretches of time leaves parameters without gradient, crashes on short clips and
# draws from numpy; without the last two the model has no vector for hidden stretches either.
STEADY = {"layerdrop": 0.0, "apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
# The usual initial spread, 0.02, suits a width of 768; narrow models learn several times slower from it.
PRESETS = {
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "initializer_range": 0.1,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "conv_dim": [32] * 7,
    },
    "small": {
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "intermediate_size": 768,
        "initializer_range": 0.06,
        "conv_dim": [128] * 7,
    },
}


@recorded
class SpeechEncoder(WrappedEncoder):
    r"""wav2vec 2.0, HuBERT or WavLM on raw waveforms, where padding never changes the result.

    Takes mono waveforms ``(batch, time)`` at ``rate_hz``, each normalised by itself (``transform`` does that), with
    a mask; padding stands at the end. One token stands for 320 samples (20 ms at 16 kHz) in the usual
    configuration. ``pooled`` is the mean of the real tokens. A clip shorter than the first frame (400 samples)
    counts as filled up with zeros to one frame.

    Models with ``feat_extract_norm="group"`` (all "base" checkpoints) normalise each channel over the whole padded
    clip, so that a clip comes out differently in every batch. Here mean and variance are taken over its real frames:

    .. math::
        y_{ct} = \gamma_c \frac{x_{ct} - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_c, \qquad
        \mu_c, \sigma_c^2 \text{ over } t < \mathrm{length}

    On one clip without padding that is what transformers computes. LayerDrop and SpecAugment are switched off.

    wav2vec 2.0: Baevski et al., 2020, https://arxiv.org/abs/2006.11477

    Args:
        config: a plain dict with ``model_type``, as ``PretrainedConfig.to_dict()`` gives it. Random weights.
        normalize: whether the transform brings each clip to zero mean and unit variance.
        rate_hz: sampling rate of the waveforms, in samples a second.
        freeze: "none", "all", or a number: the convolutions and so many of the lowest layers are not trained.
        attention: attention kernel of transformers ("sdpa", "eager"); the best one if None. WavLM has "eager" only.
        checkpointing: recompute activations in the backward pass; less memory, more time.

    Raises:
        ValueError: if the config is of another family, or ``freeze``, ``attention`` or ``checkpointing`` does not fit
            the model; in ``forward`` if the input is not ``(batch, time)``.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        normalize: bool = True,
        rate_hz: int = 16000,
        freeze: int | str = "none",
        attention: str | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.rate_hz = rate_hz
        self._adopt(build("SpeechEncoder", _settings(config), attention), freeze, checkpointing)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        freeze: int | str = "none",
        attention: str | None = None,
        checkpointing: bool = False,
    ) -> "SpeechEncoder":
        """The weights of a hub name or a local folder, and the sampling rate that they were trained with."""
        config = _settings(plain_config(read_config("SpeechEncoder", name)))
        options: dict[str, Any] = {"freeze": freeze, "attention": attention, "checkpointing": checkpointing}
        with torch.device("meta"):  # no time or memory for random weights that are replaced at once
            encoder = cls(config, **_sound_settings(name), **options)
        encoder._adopt(load("SpeechEncoder", name, config, attention), freeze, checkpointing)
        encoder.pretrained = True
        return encoder

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> "SpeechEncoder":
        """Random weights, from a ``PretrainedConfig`` or a dict; ``options`` are the keywords of the class."""
        return cls(plain_config(config), **options)

    @classmethod
    def preset(cls, name: str = "tiny", **options: Any) -> "SpeechEncoder":
        """A small wav2vec 2.0 with random weights: "tiny" (0.1 million parameters) or "small" (2.6 million)."""
        settings = require_preset("SpeechEncoder", name, PRESETS)
        positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
        return cls({"model_type": "wav2vec2"} | settings | positions, **options)

    def forward(self, input: Input) -> Features:
        require_axes("SpeechEncoder input", input.values, ("batch", "time"), "Mix the channels down to one.")
        samples = F.pad(input.zeroed().values, (0, max(0, self.shortest - input.values.shape[1])))
        lengths = real_lengths(input)
        frames, lengths = self._convolve(samples, lengths.clamp_min(self.shortest) * (lengths > 0))
        mask = torch.arange(frames.shape[1], device=lengths.device) < lengths[:, None]  # (batch, time)
        projected = self.backbone.feature_projection(frames)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        # A row without a real frame reads its first one: kernels disagree about rows that read nothing.
        read = torch.cat([mask[:, :1] | (lengths == 0)[:, None], mask[:, 1:]], dim=1)
        tokens = self.backbone.encoder(hidden.masked_fill(~mask[..., None], 0.0), attention_mask=read)
        return Features(tokens.last_hidden_state, mask, masked_mean(tokens.last_hidden_state, mask))

    def transform(self, train: bool = False) -> AudioTransform:  # noqa: ARG002 (no random changes to a clip)
        """From a sound file to what ``forward`` takes."""
        return AudioTransform(self.rate_hz, normalize=self.normalize, min_samples=self.shortest)

    def _convolve(
        self, samples: Float[Tensor, "batch sample"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch time channel"], Int[Tensor, " batch"]]:
        """The convolutions, and how many of their frames are real in each clip."""
        layers = self.backbone.feature_extractor.conv_layers
        hidden = samples[:, None].to(layers[0].conv.weight.dtype)  # (batch, channel, time)
        for layer in layers:
            kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
            lengths = ((lengths - kernel).div(stride, rounding_mode="floor") + 1).clamp_min(0)
            if isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
                hidden = layer.activation(_norm_real_frames(layer.layer_norm, layer.conv(hidden), lengths))
            else:
                hidden = layer(hidden)
        return hidden.transpose(1, 2), lengths

    def _adopt(self, backbone: Any, freeze: int | str, checkpointing: bool) -> None:
        """Take a model as the backbone."""
        if checkpointing:
            checkpoint_activations("SpeechEncoder", backbone)
        self.backbone = backbone
        self.dim = backbone.config.hidden_size
        self.shortest = _receptive_field(backbone.config)
        stem = ["feature_extractor", "feature_projection", "encoder.pos_conv_embed"]
        if not backbone.config.do_stable_layer_norm:
            stem.append("encoder.layer_norm")  # in the other family it comes last
        self._freeze(freeze, modules_at(backbone, stem), list(backbone.encoder.layers))


def _norm_real_frames(
    norm: nn.GroupNorm, values: Float[Tensor, "batch channel time"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch channel time"]:
    """Normalise each channel over the real frames of each clip, in float32; zeros beyond them."""
    real = (torch.arange(values.shape[2], device=lengths.device) < lengths[:, None])[:, None]  # (batch, 1, time)
    count = lengths.clamp_min(1)[:, None, None]
    with torch.autocast(values.device.type, enabled=False):
        exact = wide(values)
        centred = exact - exact.masked_fill(~real, 0.0).sum(dim=2, keepdim=True) / count
        centred = centred.masked_fill(~real, 0.0)
        scale = (centred.square().sum(dim=2, keepdim=True) / count + norm.eps).rsqrt()
        normed = centred * scale * norm.weight[:, None] + norm.bias[:, None]
    return normed.to(values.dtype)


def _receptive_field(config: Any) -> int:
    """How many samples the first frame reads."""
    field, step = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * step
        step *= stride
    return field


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what is random, and without an adapter that would shorten the sequence once more."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ValueError(
            f"SpeechEncoder got a config with model_type={family!r}. Expected one of {list(FAMILIES)}. "
            "Use SpectrogramEncoder, or a checkpoint of one of these families."
        )
    return dict(config) | STEADY | ({"add_adapter": False} if "add_adapter" in config else {})


def _sound_settings(name: str | Path) -> dict[str, Any]:
    """Sampling rate and normalisation of the weights; 16 kHz, normalised, where no file tells."""
    from transformers import AutoFeatureExtractor

    try:
        extractor = AutoFeatureExtractor.from_pretrained(str(name))
    except (OSError, ValueError):
        return {}
    return {"normalize": bool(extractor.do_normalize), "rate_hz": int(extractor.sampling_rate)}
