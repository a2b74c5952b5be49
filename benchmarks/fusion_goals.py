"""The goals that one method has for itself, at the shapes that other libraries are known for.

Time, peak memory and kernels of ours over those of a plain implementation that does what the named library does. The
goals are those of the project's performance notes (G5 to G12). G11, recurrent fusion, has no method here to measure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from common import Row
from fusion_cases import Case, case
from fusion_measure import measure
from plain.encoder import encoder
from plain.pooling import attention_pool
from torch import Tensor, nn

from mmfuse import fusion
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import SelfAttention
from mmfuse.layers.pooling import AttentionPool
from mmfuse.layers.transformer import CrossBlock, SelfBlock


@dataclass(frozen=True)
class Goal:
    """A case, what it is to reach by kind of row, and whether its kernels are few whatever the lengths."""

    name: str
    make: Callable[[bool], Case]  # of whether it is to be quick
    targets: Mapping[str, float]
    kernels: int | None = None  # at most so many


def goal_rows(goal: Goal, *, quick: bool, rounds: int) -> list[Row]:
    targets = {kind: target for kind, target in goal.targets.items() if kind == "kernels" or not quick}
    measured = measure(goal.name, goal.make(quick), rounds=rounds, targets=targets)
    if goal.kernels is not None:
        ours = measured["kernels"].ours
        limit = Row(f"{goal.name}: kernels at most {goal.kernels}", ours, goal.kernels, ours / goal.kernels, 1, "")
        measured["limit"] = limit
    return list(measured.values())


def _vectors(dim: int, batch: int, dims: Mapping[str, int], **settings: object) -> Callable[[type], Case]:
    sizes = {name: (1, width) for name, width in dims.items()}
    return lambda method: case(lambda dims: method(dims, dim, **settings), sizes, batch)


def _low_rank(rank: int, dim: int) -> Goal:
    def make(quick: bool) -> Case:
        width = 96 if quick else 768
        widths = {"image": width, "text": width, "audio": width}
        return _vectors(dim, 8 if quick else 64, widths, rank=rank)(fusion.LowRankFusion)

    time = {4: 0.50, 16: 0.45, 32: 0.40}[rank]
    return Goal(f"G5 low-rank fusion, 3 x 768, rank {rank}, to {dim}", make, {"time": time, "products": 1.25})


def _tensor(widths: tuple[int, int, int], dim: int, **targets: float) -> Goal:
    def make(quick: bool) -> Case:
        sizes = [width // 4 for width in widths] if quick else widths
        named = dict(zip(("image", "text", "audio"), sizes, strict=True))
        return _vectors(dim, 8 if quick else 64, named, widths=named)(fusion.TensorFusion)

    return Goal(f"G6 tensor fusion {widths} to {dim}", make, {"time": 1.05, "peak": 1.0, **targets})


def _mult(name: str, lengths: tuple[int, int, int], targets: Mapping[str, float], kernels: int) -> Goal:
    def make(quick: bool) -> Case:
        times = [max(time // 10, 3) for time in lengths] if quick else lengths
        sizes = dict(zip(("text", "audio", "vision"), zip(times, (300, 74, 35), strict=True), strict=True))
        return case(lambda dims: fusion.MulT(dims, 30, num_heads=6, num_layers=4), sizes, 4)

    return Goal(f"G7 MulT, {name}", make, targets, kernels)


def _wide_mult(quick: bool) -> Case:
    width, scale = (64, 8) if quick else (512, 1)
    sizes = {"text": (64 // scale, width), "audio": (249 // scale, width), "vision": (197 // scale, width)}
    return case(lambda dims: fusion.MulT(dims, width, num_heads=8, num_layers=2), sizes, 2)


class _Encoder(nn.Module):
    """Transformer layers over the tokens of the first modality, each reading the second too, if there is one.

    FLAVA's multimodal encoder with one modality, ALBEF's with two; without masks, as those without padding. In the
    clothes of a fusion, to be measured like one.
    """

    def __init__(self, dims: Mapping[str, int], num_heads: int) -> None:
        super().__init__()
        self.names, dim = list(dims), next(iter(dims.values()))
        self.reads_other = len(dims) == 2
        self.norm_self = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * self.reads_other))
        self.read_self = nn.ModuleList(SelfAttention(dim, num_heads) for _ in range(2 * self.reads_other))
        self.layers = nn.ModuleList((CrossBlock if self.reads_other else SelfBlock)(dim, num_heads) for _ in range(2))
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        x, *other = (features[name] for name in self.names)
        tokens = x.tokens
        for place, layer in enumerate(self.layers):
            if other:
                read = self.read_self[place](self.norm_self[place](tokens))
                tokens = layer(tokens + read, other[0].tokens)
            else:
                tokens = layer(tokens)
        return Fused(Features(tokens, x.mask, self.norm(tokens)[:, 0]))


class _Pooling(nn.Module):
    """Attention pooling in the clothes of a fusion, to be measured like one."""

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__()
        ((self.name, dim),) = dims.items()
        self.pool = AttentionPool(dim, 8)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        x = features[self.name]
        return Fused(Features.from_pooled(self.pool(x.tokens, x.mask), x.present))


def _plain_pooling(fusion: nn.Module, features: Mapping[str, Features]) -> Tensor:
    return attention_pool(fusion.pool, features[fusion.name].tokens)


def _pooling(time: int) -> Goal:
    def make(quick: bool) -> Case:
        sizes = {"audio": (time, 96) if quick else (time, 768)}
        return case(_Pooling, sizes, 2 if quick else 16, plain=_plain_pooling)

    return Goal(f"G9 attention pooling, one query, {time} x 768", make, {"time": 0.10, "peak": 0.45})


def _encoder(library: str, sizes: Mapping[str, int], width: int, heads: int, batch: int, kernels: int) -> Goal:
    def make(quick: bool) -> Case:
        shapes = {name: (time // 10 if quick else time, width) for name, time in sizes.items()}
        return case(lambda dims: _Encoder(dims, heads), shapes, 2 if quick else batch, plain=encoder)

    lengths = " and ".join(str(time) for time in sizes.values())
    # At a width of 768 and two samples, memory is that of the weights' gradients, which both have.
    targets = {"time": 1.0, "peak": 0.8} if width < 768 else {"time": 1.0}
    return Goal(f"G10 encoder as {library}, {lengths} x {width}", make, targets, kernels)


def _light(method: str) -> Goal:
    def make(quick: bool) -> Case:
        width = 96 if quick else 768
        widths = {"image": width, "text": width, "audio": width}
        return _vectors(width * 2 // 3, 64, widths)(getattr(fusion, method))

    return Goal(f"G12 {method}, 3 x 768 to 512", make, {"time": 1.0, "kernels": 0.65})


GOALS = [
    _low_rank(4, 128),
    _low_rank(16, 256),
    _low_rank(32, 512),
    _tensor((32, 32, 32), 64),
    _tensor((128, 16, 128), 16, time=0.15, peak=0.13),
    _tensor((128, 32, 128), 64),
    _tensor((64, 64, 64), 128),
    _mult("lengths 50, 500, 375", (50, 500, 375), {"time": 0.60, "peak": 0.25}, 1600),
    _mult("lengths 50, 50, 50", (50, 50, 50), {}, 600),
    Goal("G8 MulT, 512 wide, lengths 64, 249, 197", _wide_mult, {"time": 0.85}),
    _pooling(249),
    _pooling(197),
    _encoder("ALBEF", {"text": 64, "image": 197}, 256, 8, 16, kernels=110),
    _encoder("ALBEF", {"text": 64, "image": 197}, 768, 12, 2, kernels=110),
    _encoder("FLAVA", {"joined": 262}, 256, 8, 8, kernels=75),
    _encoder("FLAVA", {"joined": 262}, 768, 12, 2, kernels=75),
    _light("GatedFusion"),
    _light("AttentionFusion"),
    _light("Concat"),
]
