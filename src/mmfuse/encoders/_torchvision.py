"""Shared by the encoders round networks of torchvision: where their weights come from."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmfuse._files import read_tensors

HEADS = ("fc", "classifier", "head")  # what turns features into classes


def find_weights(owner: str, name: str, path: str | Path | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict at ``path``, or what torchvision recommends, then with the size, mean and std it goes with."""
    return _download(owner, name) if path is None else (_read(owner, Path(path)), {})


def load_weights(owner: str, network: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Take the weights over, except those of the head, which may count other classes."""
    heads = tuple(f"{head}." for head in HEADS)
    own, given = network.state_dict(), {key: x for key, x in weights.items() if not key.startswith(heads)}
    wrong = [key for key, value in given.items() if key in own and own[key].shape != value.shape]
    if not wrong:
        missing, unknown = network.load_state_dict(given, strict=False)
        wrong = unknown or [key for key in missing if not key.startswith(heads)]
    if wrong:
        raise ValueError(
            f"{owner} cannot read weights for {name!r}: {len(wrong)} tensors do not fit, such as {wrong[0]!r}. "
            "Expected the state dict of torchvision's network of that name. Give the name that the weights belong to."
        )


def _read(owner: str, path: Path) -> dict[str, Tensor]:
    """A local state dict; no pickle."""
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{owner} does not read '{path.name}', because a pickle can run code. Expected a .safetensors file. "
            "Convert it once: safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')."
        )
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'. Expected weights as .safetensors. Check the path.")
    return read_tensors(path)


def _download(owner: str, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    how = weights.transforms()
    try:
        state = dict(weights.get_state_dict(check_hash=True))
    except OSError as error:
        raise ValueError(
            f"{owner} could not download the weights of {name!r}: {error}. Expected a network, or weights in "
            "torch's cache. Give a local file: weights='model.safetensors'."
        ) from error
    return state, {"size": int(how.crop_size[0]), "mean": list(how.mean), "std": list(how.std)}
