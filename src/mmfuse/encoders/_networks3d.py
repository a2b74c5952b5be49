"""The 3D networks of torchvision without their heads: how each is built, frozen and run."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mmfuse._checks import nearest
from mmfuse.encoders._torchvision import HEADS
from mmfuse.layers.checkpointing import run, run_in_turn

# What each was trained with at torchvision: (frames, pixels). MViT has positions, and takes no other.
CLIPS = {
    "r3d_18": (16, 112),
    "mc3_18": (16, 112),
    "r2plus1d_18": (16, 112),
    "s3d": (16, 224),
    "swin3d_t": (32, 224),
    "swin3d_s": (32, 224),
    "swin3d_b": (32, 224),
    "mvit_v1_b": (16, 224),
    "mvit_v2_s": (16, 224),
}
WINDOW = [4, 4, 4]  # of a Swin of one's own, in patches


def build_network(name: str, num_frames: int, size: int, stages: Sequence[Sequence[int]] | None) -> nn.Module:
    """A network with random weights."""
    if name == "swin3d" and stages:
        return _own_swin(stages)
    require_name(name)
    if name.startswith("mvit") and (num_frames, size) != CLIPS[name]:
        raise ValueError(
            f"Video3DEncoder got num_frames={num_frames} and size={size} for {name!r}. Expected num_frames=16 and "
            "size=224, for which it has positions. Leave both out, or choose another network."
        )
    from torchvision import models

    return models.get_model(name, weights=None)


def require_name(name: str) -> None:
    """Raise ValueError unless there is such a network."""
    if name not in CLIPS:
        raise ValueError(
            f"Video3DEncoder knows no network named {name!r}. Expected one of {list(CLIPS)}, or 'swin3d' with "
            f"stages=[[32, 2], [64, 2]]. Choose one of these.{nearest(name, CLIPS)}"
        )


def head_of(network: nn.Module) -> str:
    """The name of what turns features into classes."""
    return next(name for name in HEADS if hasattr(network, name))


def behead(network: nn.Module) -> int:
    """Take the head off a network; the channels that it read."""
    name = head_of(network)
    layers = [part for part in getattr(network, name).modules() if isinstance(part, nn.Linear | nn.Conv3d)]
    setattr(network, name, nn.Identity())
    return layers[0].in_features if isinstance(layers[0], nn.Linear) else layers[0].in_channels


def stem_and_layers(network: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """What stands before the layers, and the layers, lowest first."""
    if hasattr(network, "stem"):
        return [network.stem], [network.layer1, network.layer2, network.layer3, network.layer4]
    if hasattr(network, "patch_embed"):
        return [network.patch_embed], list(network.features)
    if hasattr(network, "conv_proj"):
        return [network.conv_proj, network.pos_encoding], list(network.blocks)
    return [network.features[0]], list(network.features)[1:]


def run_network(
    network: Any, clips: Float[Tensor, "batch channel time height width"], *, checkpointing: bool = False
) -> tuple[Float[Tensor, "batch cell dim"], Float[Tensor, "batch dim"]]:
    """The cells of the last feature map, by time, row and column; and what the head of the network would read."""
    if hasattr(network, "conv_proj"):  # MViT: a class token before the cells
        return _run_mvit(network, clips, checkpointing)
    stem, layers = stem_and_layers(network)
    if hasattr(network, "patch_embed"):
        stem = [*stem, network.pos_drop]
    clips = run_in_turn([*stem, *layers], clips, checkpointing=checkpointing)
    if hasattr(network, "patch_embed"):
        cells = network.norm(clips).flatten(1, 3)
        return cells, cells.mean(dim=1)
    cells = clips.flatten(2).transpose(1, 2)
    return cells, cells.mean(dim=1)


def _own_swin(stages: Sequence[Sequence[int]]) -> nn.Module:
    """A Video Swin of these stages, with heads of 16 channels."""
    from torchvision.models.video import SwinTransformer3d

    widths, depths = [width for width, _ in stages], [depth for _, depth in stages]
    doubling = widths[0] % 16 == 0 and all(after == 2 * before for before, after in pairwise(widths))
    if not doubling or sum(depths) < 2:
        raise ValueError(
            f"Video3DEncoder got stages={[list(stage) for stage in stages]}. Expected channels that double from stage "
            "to stage and begin with a multiple of 16, and two blocks or more. Try [[32, 2], [64, 2]]."
        )
    heads = [width // 16 for width in widths]
    return SwinTransformer3d([2, 4, 4], widths[0], depths, heads, WINDOW, stochastic_depth_prob=0.0)


def _run_mvit(network: Any, clips: Tensor, checkpointing: bool) -> tuple[Tensor, Tensor]:
    places = network.pos_encoding
    tokens = places(network.conv_proj(clips).flatten(2).transpose(1, 2))
    grid = (places.temporal_size, *places.spatial_size)
    for block in network.blocks:
        tokens, grid = run(block, tokens, grid, checkpointing=checkpointing)
    tokens = network.norm(tokens)
    return tokens[:, 1:], tokens[:, 0]
