"""Shared by the encoders that wrap a model of transformers or torchvision: building, loading, freezing."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from mmfuse._checks import nearest
from mmfuse.encoders.stages import is_frozen

# What a configuration says about its file or its old head, and not about the model that we build.
NOT_OF_THE_MODEL = (
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "problem_type",
    "transformers_version",
)
# Where the families keep their transformer layers, lowest first.
LAYER_PATHS = ("layers", "layer", "encoder.layers", "encoder.layer", "transformer.layer", "model.layer")

Wrapper = TypeVar("Wrapper", bound="WrappedEncoder")


class WrappedEncoder(nn.Module):
    """Abstract: an encoder round a ``backbone`` that may be pretrained, and partly or wholly frozen.

    A frozen part, of which no parameter is trained, stays in evaluation mode (dropout, statistics of BatchNorm) when
    the model is set to training. ``stages`` are what stands before the layers, then each layer, lowest first.
    """

    backbone: Any
    dim: int

    def __init__(self) -> None:
        super().__init__()
        self.pretrained = False
        self.stages: list[list[nn.Module]] = []

    def train(self: Wrapper, mode: bool = True) -> Wrapper:
        """Set to training, except what is frozen."""
        super().train(mode)
        for parts in ([self.backbone], *self.stages):
            if is_frozen(parts):
                for part in parts:
                    part.eval()
        return self

    def _freeze(self, freeze: int | str, stem: Sequence[nn.Module], layers: Sequence[nn.Module]) -> None:
        self.stages = [list(stem), *([layer] for layer in layers)]
        if freeze == "none":
            frozen = []
        elif freeze == "all":
            frozen = [self.backbone]
        elif isinstance(freeze, int) and not isinstance(freeze, bool) and 0 <= freeze <= len(layers):
            frozen = [part for stage in self.stages[: freeze + 1] for part in stage]
        else:
            raise ValueError(
                f"{type(self).__name__} got freeze={freeze!r}. Expected 'none', 'all', or a number from 0 to "
                f"{len(layers)}: so many of the {len(layers)} layers, lowest first, and what stands before them. "
                "Use freeze='all' to train nothing of the backbone."
            )
        for part in frozen:
            part.requires_grad_(False)
        self.train(self.training)


def plain_config(config: Any) -> dict[str, Any]:
    """A configuration of transformers as a plain dict, without what does not concern the model."""
    given = dict(config) if isinstance(config, Mapping) else config.to_dict()
    return {key: copy.deepcopy(value) for key, value in given.items() if key not in NOT_OF_THE_MODEL}


def as_config(owner: str, config: Mapping[str, Any]) -> Any:
    """The configuration object of transformers that a plain dict describes."""
    from transformers import CONFIG_MAPPING, AutoConfig

    settings = plain_config(config)
    kind = settings.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"{owner} got a config with model_type={kind!r}. Expected a model type of transformers, such as 'vit', "
            f"'bert' or 'wav2vec2'. Give what PretrainedConfig.to_dict() returns.{nearest(str(kind), CONFIG_MAPPING)}"
        )
    return AutoConfig.for_model(kind, **settings)


def build(owner: str, config: Mapping[str, Any], attention: str | None) -> nn.Module:
    """A model with random weights, in float32."""
    from transformers import AutoModel

    made = as_config(owner, config)
    try:
        return AutoModel.from_config(
            made, dtype=torch.float32, attn_implementation=attention, **_no_pooler(owner, made)
        )
    except (ValueError, ImportError) as error:
        raise _attention_error(owner, made, attention, error) from error


def load(owner: str, name: str | Path, config: Mapping[str, Any], attention: str | None) -> nn.Module:
    """A model with the weights of a folder or of the hub, in float32; without pickle."""
    from safetensors import SafetensorError
    from transformers import AutoModel

    made = as_config(owner, config)
    how = {"dtype": torch.float32, "attn_implementation": attention, "use_safetensors": True, **_no_pooler(owner, made)}
    try:
        model, report = AutoModel.from_pretrained(str(name), config=made, output_loading_info=True, **how)
    except (ValueError, ImportError) as error:
        raise _attention_error(owner, made, attention, error) from error
    except OSError as error:
        raise ValueError(
            f"{owner} found a configuration in '{name}', but no weights that it reads. Expected a file "
            "model.safetensors (no pickle is read). Save the model again with save_pretrained."
        ) from error
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{owner} cannot take the weights in '{name}': {str(error).splitlines()[0]}. Expected a whole file that "
            "fits the config.json beside it. Copy or download the folder again."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{owner} found no weights in '{name}' for {len(missing)} parameters, such as {missing[0]!r}. Expected "
            f"those of a {made.model_type} model. Choose an encoder that fits the file, or use from_config."
        )
    return model


def read_config(owner: str, name: str | Path) -> Any:
    """The configuration of a local folder or of a model of the hub."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(name))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{owner} found neither a folder nor a hub model named '{name}'. Expected a folder with a config.json, or "
            "a name such as 'google/vit-base-patch16-224' that the hub knows and this machine can reach or has cached. "
            f"Check the spelling and the network; the folder {'exists' if Path(name).is_dir() else 'does not exist'}."
        ) from error


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The transformer layers of a model, lowest first."""
    found = dict(model.named_modules())
    return next((list(found[path].children()) for path in LAYER_PATHS if path in found), [])


def modules_at(model: nn.Module, paths: Sequence[str]) -> list[nn.Module]:
    """Those of the named submodules that the model has."""
    found = dict(model.named_modules())
    return [found[path] for path in paths if path in found]


def checkpoint_activations(owner: str, model: Any) -> None:
    """Recompute the activations of each layer in the backward pass, to save memory."""
    if not model.supports_gradient_checkpointing:
        raise ValueError(
            f"{owner} got checkpointing=True, but {type(model).__name__} cannot recompute its activations. Expected a "
            "model that supports gradient checkpointing. Use checkpointing=False."
        )
    # transformers renamed it within version 5; the old name warns.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


def require_preset(owner: str, name: str, presets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of a preset, or an error that lists them all."""
    if name not in presets:
        raise ValueError(f"{owner} has no preset {name!r}. Expected one of {sorted(presets)}.{nearest(name, presets)}")
    return copy.deepcopy(dict(presets[name]))


def _no_pooler(owner: str, config: Any) -> dict[str, bool]:
    """A pooler would stay without gradient, because we pool ourselves."""
    from transformers import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        raise ValueError(
            f"{owner} cannot build a model of model_type={config.model_type!r} by itself. Expected a type that "
            "AutoModel knows. Give the configuration of one modality, such as config.vision_config."
        )
    kind: Any = MODEL_MAPPING[type(config)]
    arguments = inspect.signature(kind).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in arguments else {}


def _attention_error(owner: str, config: Any, attention: str | None, error: Exception) -> Exception:
    if attention is None:
        return error
    return ValueError(
        f"{owner} cannot build a {config.model_type} model with attention={attention!r}: {str(error).splitlines()[0]} "
        "Expected a kernel that the model supports and that is installed. "
        "Use attention=None for the best one, or attention='eager', which every model has."
    )
