"""Low-rank adapters (LoRA) round a pretrained encoder: a thousandth of the parameters learns: Input -> Features."""

import copy
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from mmfuse._checks import require_count, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Input
from mmfuse.encoders._around import AroundEncoder
from mmfuse.encoders.stages import backbone_of

# What the families call the projections to queries and values, or one to all three.
ATTENTION = ("q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "query_proj", "value_proj", "Wqkv")
# Modules that take the weights of the layers inside them and do not run these: an adapter would be passed over.
PASSES_OVER = ("MultiheadAttention", "ShiftedWindowAttention", "ShiftedWindowAttention3d", "WavLMAttention")


@recorded
class LoRA(AroundEncoder):
    r"""The backbone of an encoder stays as it is, and a small product of two matrices is added to some of its layers.

    .. math:: y = W x + \frac{\alpha}{r} B A x, \qquad
              A \in \mathbb{R}^{r \times \text{in}}, \quad
              B \in \mathbb{R}^{\text{out} \times r}, \quad B = 0 \text{ at first}

    Hu et al., 2022, https://arxiv.org/abs/2106.09685. At first the encoder gives what it gave before. Of its backbone
    only A and B are trained, at the rate of new parameters (``pretrained`` is False, for they begin at nothing); what
    the encoder has beside its backbone is trained as before. ``print`` tells how many parameters that is.

    The adapters are put into the encoder that is given. :func:`mmfuse.save` and :func:`mmfuse.load` keep them;
    :meth:`merge` gives an encoder without them. Needs peft: ``pip install 'mmfuse[peft]'``.

    Args:
        encoder: with pretrained weights, such as ``TextEncoder.from_pretrained(...)``.
        rank: :math:`r`.
        alpha: :math:`\alpha`.
        dropout: of what goes into A, in training.
        targets: the ends of the names of the layers that get adapters, linear ones or convolutions. None: the
            projections to the queries and values of attention, as in the paper.

    Raises:
        ImportError: peft is not installed.
        TypeError: if the encoder is none.
        ValueError: if no layer has such a name, or an adapter there would be passed over.
    """

    encoder: Any

    def __init__(
        self,
        encoder: Any,
        *,
        rank: int = 8,
        alpha: int | float = 16,
        dropout: float = 0.0,
        targets: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module) or not hasattr(encoder, "dim"):
            raise TypeError(
                f"LoRA got a {type(encoder).__name__}. Expected an encoder: a module with the width of its features as "
                "dim. Build it first: LoRA(ViTEncoder.from_pretrained('google/vit-base-patch16-224'))."
            )
        require_count("LoRA", rank=rank)
        require_positive("LoRA", alpha=alpha)
        require_share("LoRA", dropout=dropout)
        self.encoder = encoder
        self.rank = rank
        self._trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
        names = "|".join(map(re.escape, _targets(self.backbone, targets)))
        peft = _peft()
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)
        peft.inject_adapter_in_model(config, self.backbone)
        self.train(self.training)

    @property
    def _inner(self) -> Any:
        return self.encoder

    @property
    def pretrained(self) -> bool:
        """False: what is trained is new."""
        return False

    @pretrained.setter
    def pretrained(self, value: bool) -> None:
        self.encoder.pretrained = value

    def transform(self, train: bool = False) -> Any:
        """From a cell of a table to what ``forward`` takes, as the encoder says."""
        return self.encoder.transform(train)

    def forward(self, input: Input) -> Features:
        return self.encoder(input)

    def merge(self) -> Any:
        """A copy of the encoder with the adapters added to its weights: as fast as before, and without peft."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        encoder = copy.deepcopy(self.encoder)
        backbone: Any = backbone_of(encoder)
        for name, layer in list(backbone.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                backbone.set_submodule(name, layer.get_base_layer())
        del backbone.peft_config
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(name in self._trained)
        return encoder

    def extra_repr(self) -> str:
        """How many parameters are trained."""
        every = list(self.parameters())
        trained = sum(parameter.numel() for parameter in every if parameter.requires_grad)
        return f"rank={self.rank}, {trained:,} of {sum(parameter.numel() for parameter in every):,} parameters trained"


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA needs peft. Expected it to be installed. Run: pip install 'mmfuse[peft]'") from error
    return peft


def _targets(backbone: nn.Module, ends: Sequence[str] | None) -> list[str]:
    """The full names of the layers that get adapters."""
    layers = {
        name: type(backbone.get_submodule(name.rpartition(".")[0])).__name__
        for name, part in backbone.named_modules()
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    }
    wanted = ATTENTION if ends is None else (ends,) if isinstance(ends, str) else ends
    fits = [name for name in layers if f".{name}".endswith(tuple(f".{end}" for end in wanted))]
    over = [name for name in fits if layers[name] in PASSES_OVER]
    if ends is None:
        fits = [name for name in fits if name not in over]
    elif over:
        raise ValueError(
            f"LoRA cannot adapt {over[0]!r}: {layers[over[0]]} takes its weights and passes an adapter over. "
            f"Expected other layers. Choose among {_ends(layers)}."
        )
    if not fits:
        raise ValueError(
            f"LoRA found no layer in {type(backbone).__name__} for targets={ends}. Expected the ends of names of "
            f"linear layers or convolutions. Choose among {_ends(layers)}."
        )
    return fits


def _ends(layers: dict[str, str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name, parent in layers.items() if parent not in PASSES_OVER})
