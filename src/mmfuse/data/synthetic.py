"""Made-up samples whose best possible accuracy is known, for any set of present modalities."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from mmfuse._checks import require_choice, require_free_names, require_known_names, require_positive
from mmfuse.contracts import Batch, Input, Target

KINDS = ("synergy", "redundancy", "uniqueness", "mixed")


@dataclass(frozen=True)
class LabelBit:
    """One bit of the label, and how some modalities show it, one bit each.

    ``parity``: random bits, and the label is their parity, flipped with probability ``flip``. ``copy``: the label,
    flipped in each modality by itself with that probability.
    """

    kind: str
    names: tuple[str, ...]
    flip: float

    def draw(
        self, samples: int, generator: torch.Generator
    ) -> tuple[Bool[Tensor, " sample"], Bool[Tensor, "sample modality"]]:
        """The bit of each sample, and what each modality shows."""
        coin = torch.rand(samples, len(self.names), generator=generator) < 0.5
        flipped = torch.rand(samples, len(self.names), generator=generator) < self.flip
        if self.kind == "parity":
            return (coin.sum(dim=1) % 2 == 1) ^ flipped[:, 0], coin
        return coin[:, 0], coin[:, :1] ^ flipped

    def bayes(self, given: Collection[str]) -> tuple[float, float]:
        """The accuracy and the log-loss, in nats, of the best rule that sees these modalities."""
        seen = len(set(self.names) & set(given))
        if self.kind == "parity":  # all bits are one noisy view of the label, and fewer are none
            seen = int(seen == len(self.names))
        accuracy = loss = 0.0
        for wrong in range(seen + 1):
            ways = math.comb(seen, wrong)
            likely = self.flip**wrong * (1 - self.flip) ** (seen - wrong)  # of these bits, if the label is this
            other = self.flip ** (seen - wrong) * (1 - self.flip) ** wrong  # and if it is the other
            accuracy += ways * max(likely, other) / 2
            loss -= ways * likely * math.log(likely / (likely + other)) if likely else 0.0
        return accuracy, loss


@dataclass(frozen=True)
class Synthetic:
    """What :func:`make_synthetic` makes."""

    batch: Batch  # all samples; the task is "label"
    bits: tuple[LabelBit, ...]  # of the label, the lowest first
    shown: Mapping[str, Bool[Tensor, "sample bit"]]  # what each modality shows, of the bits that name it
    dims: Mapping[str, int]  # width of each modality

    @property
    def num_classes(self) -> int:
        """How many labels there are, all equally likely."""
        return 2 ** len(self.bits)

    def batches(self, size: int = 64) -> Iterator[Batch]:
        """The samples in their order, so many at a time; the last batch may be smaller."""
        require_positive("Synthetic.batches", size=size)
        for start in range(0, len(self.batch.targets["label"].known), size):
            yield _rows(self.batch, slice(start, start + size))

    def bayes_accuracy(self, names: Collection[str] | None = None) -> float:
        """The best possible accuracy, with these modalities; with those that each sample has if None."""
        return self._mean(names, lambda each: math.prod(accuracy for accuracy, _ in each))

    def bayes_log_loss(self, names: Collection[str] | None = None) -> float:
        """The least possible mean cross-entropy, in nats, likewise."""
        return self._mean(names, lambda each: sum(loss for _, loss in each))

    def _mean(self, names: Collection[str] | None, join: Callable[[list[tuple[float, float]]], float]) -> float:
        if names is not None:
            require_known_names("Synthetic", names, self.dims, "modality")
            return join([bit.bayes(names) for bit in self.bits])
        present = torch.stack([self.batch.inputs[name].present for name in self.dims], dim=1)
        patterns, counts = present.unique(dim=0, return_counts=True)
        each = [self._mean([n for n, here in zip(self.dims, p, strict=True) if here], join) for p in patterns.tolist()]
        return sum(value * count for value, count in zip(each, counts.tolist(), strict=True)) / len(present)


def _rows(batch: Batch, rows: slice) -> Batch:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[rows], batch)


def make_synthetic(
    kind: str,
    samples: int,
    *,
    modalities: Sequence[str] | Mapping[str, int] = ("a", "b", "c"),
    dim: int = 8,
    absent: float | Mapping[str, float] | Sequence[Collection[str]] = 0.0,
    flip: float = 0.2,
    seed: int = 0,
) -> Synthetic:
    """Classification data with known Bayes accuracy.

    With e for ``flip``, and k of M modalities present:

    ============  ====================================================  =================================
    kind          label                                                 best accuracy
    ============  ====================================================  =================================
    synergy       parity of one bit a modality, flipped with e          1 - e if k = M, else 1/2
    redundancy    one bit, which each modality shows flipped with e     of the majority of k
    uniqueness    one bit a modality, each shown flipped with e         (1 - e)^k / 2^(M - k)
    mixed         a redundant bit, a synergistic one, and one that      the product of the three
                  only the first modality shows
    ============  ====================================================  =================================

    A bit is +1 or -1 in a coordinate of its own, and all other coordinates are standard normal noise: one linear layer
    reads it without error. In a sequence half of the tokens, at random places, show the bits; in the others these
    coordinates are 0. Lengths are random, with padding at the end. Samples of another seed are of the same problem.

    Args:
        kind: one of ``KINDS``.
        samples: how many.
        modalities: their names, for vectors; or the length of the longest sequence of each, 1 for vectors.
        dim: width of all modalities.
        absent: the probability that a modality is absent, for all or by name, independently; or sets of names, one of
            which is absent in each sample, all equally likely: ``[(), ("a",), ("a", "b")]``.
        flip: e, from 0 to 0.5.
        seed: of everything random.
    """
    times = dict(modalities) if isinstance(modalities, Mapping) else dict.fromkeys(modalities, 1)
    bits = _label_bits(kind, tuple(times), flip)
    _require_room(bits, times, samples, dim)
    generator = torch.Generator().manual_seed(seed)
    label = torch.zeros(samples, dtype=torch.long)
    shown: dict[str, list[Tensor]] = {name: [] for name in times}
    for place, bit in enumerate(bits):
        truth, columns = bit.draw(samples, generator)
        label = label + truth * 2**place
        for name, column in zip(bit.names, columns.unbind(dim=1), strict=True):
            shown[name].append(column)
    signs = {name: torch.stack(columns, dim=1) for name, columns in shown.items()}
    present = _present(absent, list(times), samples, generator)
    inputs = {n: _input(signs[n], present[:, i], time, dim, generator) for i, (n, time) in enumerate(times.items())}
    batch = Batch(inputs, {"label": Target(label, torch.ones(samples, dtype=torch.bool))})
    return Synthetic(batch, bits, signs, dict.fromkeys(times, dim))


def _label_bits(kind: str, names: tuple[str, ...], flip: float) -> tuple[LabelBit, ...]:
    require_choice("make_synthetic", "kind", kind, KINDS)
    if not 0 <= flip <= 0.5:
        raise ValueError(f"make_synthetic got flip={flip}. Expected from 0 to 0.5. Try flip=0.2.")
    require_free_names("A modality", names)
    together, everywhere = LabelBit("parity", names, flip), LabelBit("copy", names, flip)
    return {
        "synergy": (together,),
        "redundancy": (everywhere,),
        "uniqueness": tuple(LabelBit("copy", (name,), flip) for name in names),
        "mixed": (everywhere, together, LabelBit("copy", names[:1], flip)),
    }[kind]


def _require_room(bits: Sequence[LabelBit], times: Mapping[str, int], samples: int, dim: int) -> None:
    if not times:
        raise ValueError("make_synthetic got no modalities. Expected one or more. Name them: modalities=('a', 'b').")
    require_positive("make_synthetic", samples=samples)
    require_positive("make_synthetic(modalities=...)", **times)
    most = max(sum(name in bit.names for bit in bits) for name in times)
    if dim < most:
        raise ValueError(
            f"make_synthetic got dim={dim}. Expected at least {most}, one coordinate for each bit that a modality "
            f"shows. Choose dim={most} or more."
        )


def _present(
    absent: float | Mapping[str, float] | Sequence[Collection[str]],
    names: list[str],
    samples: int,
    generator: torch.Generator,
) -> Bool[Tensor, "sample modality"]:
    """Which modalities each sample has."""
    if isinstance(absent, Sequence):
        if not absent or isinstance(absent, str) or any(isinstance(pattern, str) for pattern in absent):
            raise ValueError(
                f"make_synthetic got absent={absent!r}. Expected a probability, or sets of names, one of which is "
                "absent in each sample. Write absent=[(), ('a',)] for samples that lack nothing or 'a'."
            )
        require_known_names("make_synthetic(absent=...)", [n for pattern in absent for n in pattern], names, "modality")
        patterns = torch.tensor([[name not in pattern for name in names] for pattern in absent])
        return patterns[torch.randint(len(patterns), (samples,), generator=generator)]
    if isinstance(absent, Mapping):
        require_known_names("make_synthetic(absent=...)", absent, names, "modality")
    shares = [absent.get(name, 0.0) if isinstance(absent, Mapping) else absent for name in names]
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"make_synthetic got absent={absent}. Expected probabilities from 0 to 1. Try absent=0.3.")
    return torch.rand(samples, len(names), generator=generator) >= torch.tensor(shares)


def _input(
    shown: Bool[Tensor, "sample bit"],
    present: Bool[Tensor, " sample"],
    time: int,
    dim: int,
    generator: torch.Generator,
) -> Input:
    """Vectors if ``time`` is 1, else sequences of at most so many tokens; zeros where nothing is real."""
    samples, count = shown.shape
    signs = (2.0 * shown - 1.0)[:, None]  # (sample, 1, bit)
    noise = torch.randn(samples, time, dim - count, generator=generator)
    if time == 1:
        return Input(torch.cat([signs, noise], dim=2)[:, 0], present).zeroed()
    lengths = torch.randint(1, time + 1, (samples, 1), generator=generator)
    mask = torch.arange(time) < lengths  # (sample, time)
    tells = _half(mask, lengths, generator)[..., None]
    return Input(torch.cat([signs * tells, noise], dim=2), present, mask & present[:, None]).zeroed()


def _half(
    mask: Bool[Tensor, "sample time"], lengths: Int[Tensor, "sample 1"], generator: torch.Generator
) -> Bool[Tensor, "sample time"]:
    """Half of the real tokens, at random, at least one."""
    order: Float[Tensor, "sample time"] = torch.rand(mask.shape, generator=generator).masked_fill(~mask, 2.0)
    rank = order.argsort(dim=1).argsort(dim=1)
    return rank < (lengths + 1) // 2
