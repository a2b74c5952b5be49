"""What must hold for every fusion whatever the machine: one graph, few compilations, no leak between samples."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from common import Row
from torch import nn

from mmfuse.contracts import Features
from mmfuse.testing import DIMS, random_features

LENGTHS = 8


def promises(name: str, method: type[nn.Module], *, quick: bool) -> dict[str, Row]:
    """Rows by kind: whole, again, leak. Layers are all alike, so one shows what more would."""
    dims = dict(list(DIMS.items())[: 2 if quick else getattr(method, "num_modalities", len(DIMS))])
    few = {"num_layers": 1} if "num_layers" in inspect.signature(method).parameters else {}
    fusion = method(dims, 8, **few)
    return {**graph_rows(name, fusion, dims), "leak": leak_row(name, fusion, dims)}


def graph_rows(name: str, fusion: nn.Module, dims: Mapping[str, int]) -> dict[str, Row]:
    """Rows for ``torch.compile(fullgraph=True)``: breaks, and compilations beyond the first over several lengths."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(fusion.eval(), fullgraph=True, backend=backend)
    error = ""
    try:
        for step in range(LENGTHS):
            compiled(_of_length(dims, step))
    except Exception as raised:  # the row says what it was
        error = f"{type(raised).__name__}: {str(raised).strip().splitlines()[0][:80]}"
    again = max(len(graphs) - 1, 0) if not error else LENGTHS
    return {
        "whole": Row(f"{name}: breaks in its graph", float(bool(error)), 0, float(bool(error)), 0, "", error),
        "again": Row(f"{name}: compiled again over {LENGTHS} lengths", again, 1, float(again), 1, ""),
    }


def _of_length(dims: Mapping[str, int], step: int) -> dict[str, Features]:
    """Samples whose lengths are all different from each other and from those of other steps."""
    features = {}
    for place, (name, width) in enumerate(dims.items()):
        time = 11 + 3 * LENGTHS * place + step
        mask = torch.arange(time) < torch.tensor([[time], [time - 2], [0]])
        features[name] = Features(torch.randn(3, time, width), mask, torch.randn(3, width))
    return features


def leak_row(name: str, fusion: nn.Module, dims: Mapping[str, int]) -> Row:
    """How much the first sample changes when all others are replaced, in evaluation and in training mode."""
    before = {name: _single(x) for name, x in random_features(dims).items()}
    after = {name: _others_replaced(x) for name, x in before.items()}
    change = 0.0
    for mode in (False, True):
        fusion.train(mode)
        first, second = (_first_row(fusion, features) for features in (before, after))
        change = max(change, float((first - second).abs().max()))
    return Row(f"{name}: leak between samples", change, 0, change, 0, "")


def _first_row(fusion: nn.Module, features: Mapping[str, Features]) -> torch.Tensor:
    torch.manual_seed(1)
    state = {key: value.clone() for key, value in fusion.state_dict().items()}
    row = fusion(features).features.pooled[0]
    fusion.load_state_dict(state)
    return row.detach()


def _single(x: Features) -> Features:
    return replace(x, tokens=x.tokens.float(), pooled=x.pooled.float())


def _others_replaced(x: Features) -> Features:
    """Other values in all samples but the first, and another sample's absence and padding."""
    tokens, mask, pooled = x.tokens.clone(), x.mask.clone(), x.pooled.clone()
    tokens[1:] = 10 * torch.randn_like(tokens[1:])
    mask[1:] = mask[1:].flip(0)
    pooled[1:] = 10 * torch.randn_like(pooled[1:])
    return Features(tokens, mask, pooled)
