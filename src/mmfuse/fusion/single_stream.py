"""Fusion by one transformer over the tokens of all modalities."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from mmfuse._checks import require_dims, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import require_heads, score_bias
from mmfuse.layers.join import JoinTokens
from mmfuse.layers.transformer import SelfBlock


@recorded
class SingleStream(nn.Module):
    r"""One transformer reads the tokens of all modalities as a single sequence.

    .. math::
        Z^{(0)} = [\mathrm{CLS};\ P_1 X_1 + e_1;\ \dots;\ P_M X_M + e_M], \qquad
        Z^{(l)} = \operatorname{Block}_l(Z^{(l-1)}), \qquad
        h = \operatorname{LN}(Z^{(L)})_{\mathrm{CLS}}

    CLS is a learned token and :math:`e_m` the type embedding of modality m (the bias of :math:`P_m`). Each block is
    self-attention and a feed-forward network, pre-norm as in ViLT; VisualBERT and MMBT, which start from BERT, are
    post-norm. Positions are the business of the encoders: none are added here. ``Fused.features.tokens`` is
    :math:`\operatorname{LN}(Z^{(L)})`, CLS first, then the modalities in the order of ``dims``.

    Source: Li et al. (2019), "VisualBERT: A Simple and Performant Baseline for Vision and Language",
    https://arxiv.org/abs/1908.03557; Kiela et al. (2019), "Supervised Multimodal Bitransformers for Classifying Images
    and Text", https://arxiv.org/abs/1909.02950; Kim et al. (2021), "ViLT: Vision-and-Language Transformer Without
    Convolution or Region Supervision", https://arxiv.org/abs/2102.03334.

    Reads: tokens.

    Absent: its tokens are no keys. A sample with nothing at all keeps CLS, which reads itself: finite, present False.

    Cost: parameters ``12 num_layers dim^2``, however many the modalities, and a projection for each; time
    ``num_layers (T dim^2 + T^2 dim)`` for T tokens of all modalities together.

    Use: as the strongest plain mixer where there are enough data and the sequences are short to middling. A long
    modality draws most of the attention and of the cost: see BottleneckFusion and PerceiverFusion for those.

    Args:
        dims: width of each modality.
        dim: width of tokens and fused vector; a multiple of ``num_heads``.
        num_heads: attention heads.
        num_layers: blocks.
        dropout: on both branches of each block.
    """

    reads = "tokens"

    def __init__(
        self, dims: Mapping[str, int], dim: int, *, num_heads: int = 4, num_layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        require_dims("SingleStream", dims, dim)
        require_positive("SingleStream", num_heads=num_heads, num_layers=num_layers)
        require_heads("SingleStream", dim, num_heads)
        require_share("SingleStream", dropout=dropout)
        self.join = JoinTokens(dims, dim)
        self.cls = nn.Parameter(0.02 * torch.randn(dim))
        self.blocks = nn.ModuleList(SelfBlock(dim, num_heads, dropout=dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        joined, mask = self.join(features)
        stream = torch.cat([self.cls.to(joined.dtype).expand(joined.shape[0], 1, -1), joined], dim=1)
        # CLS can always be read, so that every row has a key.
        bias = score_bias(F.pad(mask, (1, 0), value=True), stream.dtype)
        for block in self.blocks:
            stream = block(stream, bias)
        stream = self.norm(stream)
        real = torch.cat([mask.any(dim=1, keepdim=True), mask], dim=1)  # CLS stands for a sample that has something
        return Fused(Features(stream, real, stream[:, 0]))
