"""Graph attention over modalities and pairs, plainly: a loop over nodes and their neighbours."""

from itertools import combinations

import torch
import torch.nn.functional as F
from plain.pooling import attention_pool


def graph(fusion, features):
    starts = {name: project(features[name].pooled).chunk(2, dim=1) for name, project in fusion.project.items()}
    names = list(starts)
    nodes = {(name,): F.gelu(starts[name][0]) for name in names}
    for one, other in combinations(names, 2):
        nodes[one, other] = F.gelu(starts[one][1] + starts[other][1])
    for layer in fusion.layers:
        messages = {node: layer.message(x).unflatten(1, layer.score.shape[:2]) for node, x in nodes.items()}
        nodes = {node: x + F.gelu(_gather(layer, node, messages)) for node, x in nodes.items()}
    return attention_pool(fusion.pool, torch.stack(list(nodes.values()), dim=1))


def _gather(layer, node, messages):
    """What a node reads of its neighbours: of itself, of modalities if it is one, of what shares a modality with it."""
    neighbours = [other for other in messages if other == node or _joined(node, other)]
    scores = [F.leaky_relu((messages[node] * layer.score[..., 0] + messages[n] * layer.score[..., 1]).sum(dim=2), 0.2)
              for n in neighbours]  # fmt: skip
    weights = torch.stack(scores).softmax(dim=0)[..., None]  # (neighbour, batch, head, 1)
    return (weights * torch.stack([messages[n] for n in neighbours])).sum(dim=0).flatten(1)


def _joined(one, other):
    if len(one) == len(other):
        return len(one) == 1
    return set(one) <= set(other) or set(other) <= set(one)
