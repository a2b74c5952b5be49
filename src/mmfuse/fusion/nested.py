"""Hierarchical fusion: the fusion of some modalities is one modality of another fusion."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from mmfuse._checks import require_free_names
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused


@recorded
class Nested(nn.Module):
    r"""Fuse some modalities first; what comes out is a modality, by a name of its own, of the outer fusion.

    .. math::
        h_g = \operatorname{fuse}_g(\{X_m\}_{m \in g}), \qquad
        h = \operatorname{fuse}(\{h_g\}_g \cup \{X_m\}_m), \qquad
        a_m = \sum_g a_g\, a_{m|g} + a_{m|\mathrm{outer}}

    for each group g of ``inner``: :math:`a_g` is its share in the outer fusion, :math:`a_{m|g}` the share of m within
    it. It works because every fusion gives a ``Features``. Each fusion reads the modalities that it was built for, so
    one that nobody was built for is not read, and one that two were built for is read by both.

        Nested({"av": Concat({"audio": 64, "video": 128}, 32)}, MulT({"av": 32, "text": 768}, 256))

    ``weights`` are reported where the outer fusion and all inner ones report theirs; without one of them the shares of
    single modalities are not known, and none are reported. Penalties of an inner fusion get its name in front:
    ``"av/load"``. Where inner and outer both work on tokens, nobody reads the inner pooled vector: parameters that make
    nothing else get no gradient. Under DDP ``fit`` allows for that; a DDP of your own needs
    ``find_unused_parameters=True``.

    Source: folklore; pairs first, then all: Majumder et al. (2018), "Multimodal Sentiment Analysis using Hierarchical
    Fusion with Context Modeling", https://arxiv.org/abs/1806.06228.

    Reads: what its fusions read.

    Absent: as in its fusions; a group is absent where all of its modalities are.

    Cost: that of its fusions, one after the other.

    Use: to fuse what belongs together first (sound and picture of one camera), to give three modalities to a method
    that takes two, and to fuse some modalities by tokens and the others by vectors.

    Args:
        inner: the fusion of each group, by the name that its result has in the outer fusion.
        outer: the fusion of these results, and of modalities that stand alone.

    Raises:
        ValueError: an inner fusion has the name or the width of something else, or the outer one does not read it.
    """

    def __init__(self, inner: Mapping[str, nn.Module], outer: nn.Module) -> None:
        super().__init__()
        if not inner:
            raise ValueError("Nested got no inner fusion. Expected one or more. Use the outer fusion by itself.")
        require_free_names("An inner fusion", inner)
        _require_fitting(inner, outer)
        self.inner = nn.ModuleDict(inner)
        self.outer = outer

    def forward(self, features: Mapping[str, Features]) -> Fused:
        inner: dict[str, Fused] = {name: fusion(_chosen(fusion, features)) for name, fusion in self.inner.items()}
        groups = {name: fused.features for name, fused in inner.items()}
        fused: Fused = self.outer(_chosen(self.outer, {**features, **groups}))
        penalties = {f"{name}/{kind}": loss for name, part in inner.items() for kind, loss in part.penalties.items()}
        return Fused(fused.features, _shares(inner, fused.weights), {**penalties, **fused.penalties})


def _chosen(fusion: nn.Module, features: Mapping[str, Features]) -> dict[str, Features]:
    """The modalities that a fusion was built for, or all where it does not remember."""
    names = _dims(fusion) or features
    return {name: x for name, x in features.items() if name in names}


def _shares(inner: Mapping[str, Fused], outer: Mapping[str, Tensor]) -> dict[str, Float[Tensor, " batch"]]:
    """The share of each single modality, or nothing if one of the fusions does not tell."""
    if not outer or not all(fused.weights for fused in inner.values()):
        return {}
    shares = {name: share for name, share in outer.items() if name not in inner}
    for group, fused in inner.items():
        for name, share in fused.weights.items():
            whole = outer[group] * share
            shares[name] = shares[name] + whole if name in shares else whole
    return shares


def _dims(fusion: nn.Module) -> dict[str, int] | None:
    """The widths that a fusion was built for, if it remembers."""
    return getattr(fusion, "_recorded_arguments", {}).get("dims")


def _require_fitting(inner: Mapping[str, nn.Module], outer: nn.Module) -> None:
    """Raise ValueError if the names or widths of the fusions do not fit together (as far as they remember them)."""
    reads = _dims(outer)
    for name, fusion in inner.items():
        made, width = type(fusion).__name__, getattr(fusion, "_recorded_arguments", {}).get("dim")
        if name in (_dims(fusion) or {}):
            raise ValueError(
                f"Nested got an inner {made} named {name!r}, and {name!r} is one of its modalities. Expected a name of "
                "its own. Join the names of its modalities, for example."
            )
        if reads is not None and name not in reads:
            raise ValueError(
                f"Nested got an inner fusion {name!r}, but the outer {type(outer).__name__} was built for "
                f"{dict(reads)}. Expected {name!r} among them. Build it with dims that hold each inner fusion's name."
            )
        if reads is not None and width is not None and reads[name] != width:
            raise ValueError(
                f"Nested got an inner {made} {name!r} of width {width}, but the outer {type(outer).__name__} was built "
                f"for {name!r} of width {reads[name]}. Expected one width. Build the outer with {{{name!r}: {width}}}."
            )
