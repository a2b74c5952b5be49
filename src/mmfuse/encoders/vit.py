"""Images through a vision transformer of transformers: (batch, channel, height, width) -> Features."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfuse._checks import require_choice, require_count, require_shape
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.data.transforms.image import ImageTransform
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
from mmfuse.encoders._pixels import Pixels

# The usual initial spread, 0.02, suits a width of 768; narrow models learn several times slower from it.
PRESETS = {
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "image_size": 32,
        "patch_size": 8,
        "initializer_range": 0.1,
    },
    "small": {
        "hidden_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "intermediate_size": 768,
        "image_size": 96,
        "patch_size": 8,
        "initializer_range": 0.06,
    },
}
HALF = (0.5, 0.5, 0.5)


@recorded
class ViTEncoder(WrappedEncoder):
    """Vision transformer: ViT, DeiT, DINOv2, SigLIP, CLIP, Swin and whatever else ``AutoModel`` makes of an image.

    Takes images ``(batch, channel, height, width)`` of one size: uint8, which it normalises on its device, or floats
    that are normalised already. The tokens are the last hidden states, normalised
    (CLIP leaves its last normalisation to the class token; here all tokens get it). ``pooled`` is the class token
    where the model has one (see ``pool``), else the mean of the tokens. Heads and mask tokens are dropped: what stays
    can learn.

    ViT: Dosovitskiy et al., 2021, https://arxiv.org/abs/2010.11929

    Args:
        config: a plain dict with ``model_type``, as ``PretrainedConfig.to_dict()`` gives it. Random weights.
        size: height and width of the images in pixels; those of the config if None. With another size the
            positions are interpolated, where the model can do that.
        mean: mean of each channel, for values in [0, 1], that is subtracted from pixels of uint8.
        std: standard deviation of each channel that they are divided by.
        pool: "first" (the class token) or "mean"; None: the class token where the model has one.
        freeze: "none", "all", or a number: the embeddings and so many of the lowest layers are not trained.
        attention: attention kernel of transformers ("sdpa", "eager", "flash_attention_2"); the best one if None.
        checkpointing: recompute activations in the backward pass; less memory, more time.

    Raises:
        ValueError: if the config, ``freeze``, ``attention`` or ``checkpointing`` does not fit the model; in
            ``forward`` if the images have another shape.
    """

    def __init__(  # noqa: PLR0913  what every encoder has, and what its transform needs
        self,
        config: Mapping[str, Any],
        *,
        size: int | None = None,
        mean: Sequence[float] = HALF,
        std: Sequence[float] = HALF,
        pool: str | None = None,
        freeze: int | str = "none",
        attention: str | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        made = as_config("ViTEncoder", _settings(config))
        self.size = _config_size(made) if size is None else size
        require_count("ViTEncoder", size=self.size)
        self.channels = getattr(made, "num_channels", 3)
        self.mean, self.std = list(mean), list(std)
        self.pixels = Pixels("ViTEncoder", mean, std)
        require_choice("ViTEncoder", "pool", pool, (None, "first", "mean"))
        self._asked_pool = pool
        self.dim = made.hidden_size
        self._adopt(build("ViTEncoder", _settings(config), attention), freeze, checkpointing)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        size: int | None = None,
        pool: str | None = None,
        freeze: int | str = "none",
        attention: str | None = None,
        checkpointing: bool = False,
    ) -> "ViTEncoder":
        """The weights of a hub name or a local folder, and the size, mean and std that they were trained with."""
        config = _settings(read_config("ViTEncoder", name))
        image = _image_settings(name, size or _config_size(as_config("ViTEncoder", config)))
        options: dict[str, Any] = {
            "pool": pool,
            "freeze": freeze,
            "attention": attention,
            "checkpointing": checkpointing,
        }
        with torch.device("meta"):  # no time or memory for random weights that are replaced at once
            encoder = cls(config, **image | ({} if size is None else {"size": size}), **options)
        encoder._adopt(load("ViTEncoder", name, config, attention), freeze, checkpointing)
        encoder.pretrained = True
        return encoder

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> "ViTEncoder":
        """Random weights, from a ``PretrainedConfig`` or a dict; ``options`` are the keywords of the class."""
        return cls(plain_config(config), **options)

    @classmethod
    def preset(cls, name: str = "tiny", *, size: int | None = None, **options: Any) -> "ViTEncoder":
        """A small ViT with random weights: "tiny" (about 0.1 million parameters) or "small" (2.8 million).

        ``pooled`` is the mean of its tokens, from which small models learn faster (Beyer et al., 2022).
        """
        settings = require_preset("ViTEncoder", name, PRESETS)
        config = {"model_type": "vit"} | settings | ({} if size is None else {"image_size": size})
        return cls(config, **{"pool": "mean", **options})

    def forward(self, input: Input) -> Features:
        expected = {"batch": input.present.shape[0], "channel": self.channels, "height": self.size, "width": self.size}
        require_shape("ViTEncoder input", input.values, expected, "Make the images with encoder.transform().")
        tokens = self.backbone(self.pixels(input), **self._options).last_hidden_state
        if self._norm is not None:
            tokens = self._norm(tokens)
        mask = input.present[:, None].expand(tokens.shape[:2])
        return Features(tokens, mask, self._pool(tokens))

    def transform(self, train: bool = False) -> ImageTransform:
        """From an image file to what ``forward`` takes; with random crops if ``train``."""
        return ImageTransform(self.size, crop_scale=(0.8, 1.0) if train else None)

    def _pool(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0] if self.pool == "first" else tokens.mean(dim=1)

    def _adopt(self, backbone: Any, freeze: int | str, checkpointing: bool) -> None:
        """Take a model as the backbone, without the parameters that no image reaches."""
        embeddings = backbone.embeddings
        if getattr(embeddings, "mask_token", None) is not None:
            embeddings.mask_token = None
        if checkpointing:
            checkpoint_activations("ViTEncoder", backbone)
        self.backbone = backbone
        has_class_token = any(getattr(embeddings, n, None) is not None for n in ("cls_token", "class_embedding"))
        self.pool = self._asked_pool or ("first" if has_class_token else "mean")
        if self.pool == "first" and not has_class_token:
            raise ValueError(
                f"ViTEncoder got pool='first', but {type(backbone).__name__} has no class token. Expected pool='mean'. "
                "Leave pool out to take what the model has."
            )
        interpolates = "interpolate_pos_encoding" in inspect.signature(type(backbone).forward).parameters
        resized = self.size != _config_size(backbone.config)
        self._options = {"interpolate_pos_encoding": True} if interpolates and resized else {}
        self._freeze(freeze, modules_at(backbone, ("embeddings", "pre_layrnorm")), layers_of(backbone))

    @property
    def _norm(self) -> Any:
        """CLIP's last normalisation, which its own forward keeps for the class token."""
        return self.backbone.post_layernorm if self.backbone.config.model_type == "clip_vision_model" else None


def _settings(config: Any) -> dict[str, Any]:
    """The image half of a config, without the head of SigLIP."""
    vision = plain_config(config)
    vision = plain_config(vision.get("vision_config") or vision)
    return vision | ({"vision_use_head": False} if vision.get("model_type") == "siglip_vision_model" else {})


def _config_size(config: Any) -> int:
    size = config.image_size
    sizes = {size} if isinstance(size, int) else set(size)
    if len(sizes) != 1:
        raise ValueError(
            f"ViTEncoder got a config with image_size={size}. Expected square images. Set image_size to one number."
        )
    return int(sizes.pop())


def _image_settings(name: str | Path, size: int) -> dict[str, Any]:
    """Size, mean and std of the weights; [-1, 1] at the size of the config where no file tells."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(str(name))
    except (OSError, ValueError):
        return {"size": size}
    told = dict((processor.do_center_crop and processor.crop_size) or processor.size or {})
    told_size = told.get("height") or told.get("shortest_edge") or size
    mean, std = ([float(value) for value in values] for values in (processor.image_mean, processor.image_std))
    return {"size": int(told_size), "mean": mean, "std": std}
