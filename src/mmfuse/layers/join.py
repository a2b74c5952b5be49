"""The tokens of all modalities as one sequence."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse.contracts import Features
from mmfuse.layers.modalities import read_tokens


class JoinTokens(nn.Module):
    r"""Tokens of all modalities, one after the other in the order of ``dims``, each marked with its modality.

    .. math:: [P_1 X_1 + e_1; \dots; P_M X_M + e_M]

    The code :math:`e_m` of a modality is the bias of its projection. What is not real comes out finite.

    Args:
        dims: width of each modality.
        dim: width of the joined tokens.
    """

    def __init__(self, dims: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})

    def forward(
        self, features: Mapping[str, Features]
    ) -> tuple[Float[Tensor, "batch time dim"], Bool[Tensor, "batch time"]]:
        """The tokens, and which of them are real."""
        tokens, masks = read_tokens(features, self.project)
        joined = torch.cat([project(tokens[name]) for name, project in self.project.items()], dim=1)
        return joined, torch.cat(list(masks.values()), dim=1)
