"""What benchmarks/fusion.py times: a fusion, its plain counterpart, samples for both, and one step of each."""

import copy
import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmfuse.contracts import Features

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("image", "text", "audio")
Plain = Callable[[nn.Module, Mapping[str, Features]], Tensor]
Sizes = Mapping[str, tuple[int, int]]  # of each modality: tokens, width


@dataclass(frozen=True)
class Case:
    """One fusion next to its plain counterpart, on a full batch: every modality present, nothing padded."""

    fusion: nn.Module
    plain: Plain
    sizes: Sizes
    batch: int
    pooled: bool = False  # vectors that stand for themselves, without tokens

    def steps(self) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
        """Forward and backward of ours and of plain, and what frees the gradients that they leave."""
        features = self.features(self.batch, torch.float32)
        given = torch.randn_like(self.plain(self.fusion, features))

        def reset() -> None:
            for leaf in (*self.fusion.parameters(), *_leaves(features), *_kept(self.fusion)):
                leaf.grad = None

        def ours() -> None:
            reset()
            self.fusion(features).features.pooled.backward(given)

        def plain() -> None:
            reset()
            self.plain(self.fusion, features).backward(given)

        return ours, plain, reset

    def difference(self) -> float:
        """The largest relative difference between ours and plain in float64, of the results and of their gradients."""
        fusion = copy.deepcopy(self.fusion).double().eval()
        features = self.features(2, torch.float64)
        results = [fusion(features).features.pooled, self.plain(fusion, features)]
        given, leaves = torch.randn_like(results[0]), list(_leaves(features))
        ours, plain = (
            [result.detach(), *torch.autograd.grad(result, leaves, given, allow_unused=True)] for result in results
        )
        return max(_apart(a, b) for a, b in zip(ours, plain, strict=True))

    def features(self, batch: int, dtype: torch.dtype) -> dict[str, Features]:
        generator, features = torch.Generator().manual_seed(1), {}
        for name, (time, width) in self.sizes.items():
            values = torch.randn(batch, time, width, generator=generator, dtype=dtype).to(DEVICE)
            vector = values.mean(dim=1).requires_grad_()
            tokens = vector[:, None].detach() if self.pooled else values.requires_grad_()
            features[name] = Features(tokens, torch.ones(batch, time, dtype=torch.bool, device=DEVICE), vector)
        return features


def case(make: Callable[[dict[str, int]], nn.Module], sizes: Sizes, batch: int, *, plain: Plain | None = None) -> Case:
    """A fusion without dropout, in training mode, every parameter off its initial value: a zero can hide a fault."""
    torch.manual_seed(0)
    fusion = make({name: width for name, (_, width) in sizes.items()}).to(DEVICE).train()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    for module in fusion.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return Case(fusion, plain or plain_of(type(fusion)), sizes, batch, getattr(fusion, "reads", "tokens") == "pooled")


def plain_of(method: type[nn.Module]) -> Plain:
    """``benchmarks/plain/<file of the method>.py`` holds a function of the name of the class or of the file."""
    file = method.__module__.rpartition(".")[2]
    names = (re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method.__name__).lower(), file)
    try:
        module = importlib.import_module(f"plain.{file}")
        return next(getattr(module, name) for name in names if hasattr(module, name))
    except (ModuleNotFoundError, StopIteration):
        raise SystemExit(
            f"{method.__name__} has no plain counterpart to be measured against. Expected {' or '.join(names)} in "
            f"benchmarks/plain/{file}.py: (fusion, features) -> pooled, the equation with the fusion's own parameters, "
            "written as most people would."
        ) from None


def _leaves(features: Mapping[str, Features]) -> Iterator[Tensor]:
    return (part for x in features.values() for part in (x.tokens, x.pooled) if part.requires_grad)


def _kept(fusion: nn.Module) -> Iterator[Tensor]:
    """Copies of parameters, in another layout, that a plain counterpart keeps beside them."""
    for value in vars(fusion).values():
        if isinstance(value, list):
            yield from (each for each in value if isinstance(each, Tensor))


def _apart(one: Tensor | None, other: Tensor | None) -> float:
    if one is None and other is None:
        return 0.0
    if one is None or other is None:
        return float("inf") if (one if other is None else other).any() else 0.0
    return float((one - other).abs().max() / other.abs().max().clamp_min(1e-300))
