"""A transformer over the steps of a sequence: frames of a clip, windows of a recording, given features."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_not_negative, require_share, require_whole
from mmfuse.layers.checkpointing import run
from mmfuse.layers.masking import real_only
from mmfuse.layers.positions import sinusoids
from mmfuse.layers.transformer import SelfBlock


class SequenceTransformer(nn.Module):
    r"""Positions, then pre-norm transformer blocks (Xiong et al., 2020) that read the real steps, then a last norm.

    .. math:: X^0 = X + p, \qquad X^l = \operatorname{Block}_l(X^{l-1}), \qquad Y = \operatorname{LN}(X^L)

    Without a block it is positions and norm alone. What is not real is zeroed before the first parameter, changes
    nothing, and comes out as zeros.

    Args:
        dim: width of the steps and of the result.
        num_layers: blocks.
        num_heads: heads of attention; must divide ``dim``.
        dropout: on both branches of each block, in training.
        checkpointing: recompute the activations of each block in the backward pass; less memory, more time.
    """

    def __init__(
        self, dim: int, num_layers: int, *, num_heads: int = 4, dropout: float = 0.0, checkpointing: bool = False
    ) -> None:
        super().__init__()
        require_whole("SequenceTransformer", num_layers=num_layers)
        require_not_negative("SequenceTransformer", num_layers=num_layers)
        require_share("SequenceTransformer", dropout=dropout)
        self.blocks = nn.ModuleList(SelfBlock(dim, num_heads, dropout=dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.checkpointing = checkpointing

    def forward(
        self, tokens: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time dim"]:
        real = mask[..., None]
        tokens = real_only(tokens + sinusoids(tokens.shape[1], tokens), real)
        for block in self.blocks:
            tokens = run(block, tokens, mask, checkpointing=self.checkpointing)
        return real_only(self.norm(tokens), real)
