"""Fusion by one learned score per modality and sample."""

from collections.abc import Mapping

import torch
from torch import nn

from mmfuse._checks import require_dims, require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.masking import masked_softmax
from mmfuse.layers.modalities import by_name, read_pooled


@recorded
class AttentionFusion(nn.Module):
    r"""Score each modality that is present, then add them up by score.

    .. math::
        s_m = \tfrac{1}{d_s} v^\top \tanh(W_m x_m + b_m), \qquad
        a = \operatorname{softmax}_{m\ \text{present}}(s), \qquad
        h = \sum_m a_m (P_m x_m + c_m)

    Here :math:`x_m` is the pooled vector of modality m; :math:`W_m, b_m` make its key, :math:`P_m, c_m` its value, and
    :math:`v` is the query that all modalities share. ``Fused.weights`` are the :math:`a_m`. Bahdanau et al. score one
    sequence with one :math:`W`, Ilse et al. the instances of a bag; here each modality has a :math:`W_m` of its own,
    because widths differ. Theirs is without :math:`1 / d_s`, the width of the keys: then every step of Adam moves the
    scores by :math:`d_s` times its rate, and within some dozens of steps one modality has the whole of every sample.
    ``key_value[name]`` holds :math:`[W_m; P_m]` as one layer, the rows of :math:`W_m` first.

    Source: Bahdanau, Cho, Bengio (2015), "Neural Machine Translation by Jointly Learning to Align and Translate",
    https://arxiv.org/abs/1409.0473; Ilse, Tomczak, Welling (2018), "Attention-based Deep Multiple Instance Learning",
    https://arxiv.org/abs/1802.04712, equation 8.

    Reads: pooled vectors.

    Absent: an absent modality has no score, and the others share the whole. A sample with nothing at all gives zeros.

    Cost: parameters and time grow as ``(dim + score_dim) (sum of d_m)``.

    Use: where the modality that answers changes from sample to sample, and to see which one did. For one sample it is
    an average, so what several modalities mean only together passes through the scores alone.

    Args:
        dims: width of each modality, for example ``{"text": 768, "audio": 128}``.
        dim: width of the fused vector.
        score_dim: width of the keys; the smaller of ``dim`` and 64 if None.

    Raises:
        ValueError: no modalities, or a width that is not positive.
    """

    reads = "pooled"

    def __init__(self, dims: Mapping[str, int], dim: int, *, score_dim: int | None = None) -> None:
        super().__init__()
        require_dims("AttentionFusion", dims, dim)
        score_dim = min(dim, 64) if score_dim is None else score_dim
        require_positive("AttentionFusion", score_dim=score_dim)
        self.widths = (score_dim, dim)
        self.key_value = nn.ModuleDict({name: nn.Linear(width, score_dim + dim) for name, width in dims.items()})
        self.query = nn.Linear(score_dim, 1, bias=False)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inputs, present = read_pooled(features, self.key_value)  # present: (batch, modality)
        both = torch.stack([self.key_value[name](x) for name, x in inputs.items()], dim=1)
        keys, values = both.split(self.widths, dim=2)  # (batch, modality, score_dim) and (batch, modality, dim)
        scores = self.query(keys.tanh()).squeeze(2) / self.widths[0]
        weights = masked_softmax(scores, present)  # (batch, modality)
        pooled = torch.bmm(weights[:, None], values).squeeze(1)
        return Fused(Features.from_pooled(pooled, present.any(dim=1)), weights=by_name(inputs, weights))
