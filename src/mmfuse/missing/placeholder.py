"""Learned tokens in place of absent modalities: {name: Features} -> {name: Features}."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_known_names, require_names, require_positive
from mmfuse._record import recorded
from mmfuse.contracts import Features


@recorded
class Placeholder(nn.Module):
    r"""Where a modality is absent, learned tokens and a learned pooled vector stand for it, and it counts as present.

    .. math::
        X_m, x_m \leftarrow
        \begin{cases} X_m, x_m & m \in P(i) \\ E_m, e_m & m \notin P(i) \neq \emptyset \end{cases}

    with :math:`E_m` the tokens and :math:`e_m` the pooled vector learned for modality m. A fusion that follows sees a
    sample that lacks nothing, and reports weights of the placeholders too. A sample with nothing at all stays without
    anything: whatever stood for it would be an answer to no question, and ``Ensure`` says what it gives. Modalities
    that are not in ``dims`` pass unchanged. After ``ModalityDropout`` the placeholders learn where data is complete.

    Source: the mask token of Devlin et al., 2019 (BERT), for a whole modality; compare Lee et al. (2023), "Multimodal
    Prompting with Missing Modalities for Visual Recognition", https://arxiv.org/abs/2303.03369.

    Args:
        dims: width of each modality that gets a placeholder.
        num_tokens: tokens of a placeholder: one number for all, or one for each modality of ``dims``.
    """

    def __init__(self, dims: Mapping[str, int], *, num_tokens: int | Mapping[str, int] = 1) -> None:
        super().__init__()
        require_dims("Placeholder", dims, 1)
        if isinstance(num_tokens, Mapping):
            require_names("Placeholder(num_tokens=...)", num_tokens, dims, "Give one number for each modality.")
            require_known_names("Placeholder(num_tokens=...)", num_tokens, dims, "modality")
            counts = dict(num_tokens)
        else:
            counts = dict.fromkeys(dims, num_tokens)
        require_positive("Placeholder(num_tokens=...)", **counts)
        self.tokens = nn.ParameterDict({n: nn.Parameter(0.02 * torch.randn(counts[n], w)) for n, w in dims.items()})
        self.pooled = nn.ParameterDict({n: nn.Parameter(0.02 * torch.randn(w)) for n, w in dims.items()})

    def forward(self, features: Mapping[str, Features]) -> dict[str, Features]:
        require_names("Placeholder", features, set(self.tokens), "Build it for the modalities of the model.")
        some = torch.stack([x.present for x in features.values()], dim=1).any(dim=1)
        return {name: self._fill(name, x, some) if name in self.tokens else x for name, x in features.items()}

    def _fill(self, name: str, x: Features, some: Bool[Tensor, " batch"]) -> Features:
        """One modality; ``some`` says which samples have any."""
        absent = some & ~x.present
        learned: Float[Tensor, "token dim"] = self.tokens[name].to(x.tokens.dtype)
        (count, width), (time, given) = learned.shape, x.tokens.shape[1:]
        if width != given:
            raise ValueError(
                f"Placeholder was built for {name!r} of width {width}, but its features have width {given}. Expected "
                "the same. Build it with dims_of(encoders)."
            )
        if time < count:
            x = _padded(x, count - time)
        learned = F.pad(learned, (0, 0, 0, x.tokens.shape[1] - count))  # (time, dim)
        first = torch.arange(x.tokens.shape[1], device=x.mask.device) < count  # (time)
        return Features(
            tokens=torch.where(absent[:, None, None], learned, x.tokens),
            mask=x.mask | (absent[:, None] & first),
            pooled=torch.where(absent[:, None], self.pooled[name].to(x.pooled.dtype), x.pooled),
        )


def _padded(x: Features, steps: int) -> Features:
    return Features(F.pad(x.tokens, (0, 0, 0, steps)), F.pad(x.mask, (0, steps)), x.pooled)
