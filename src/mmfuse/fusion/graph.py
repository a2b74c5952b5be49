"""Fusion by graph attention over modalities and pairs of modalities."""

from collections.abc import Mapping
from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmfuse._checks import require_dims, require_positive, require_share
from mmfuse._record import recorded
from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import require_heads
from mmfuse.layers.masking import masked_softmax
from mmfuse.layers.modalities import by_name, read_pooled
from mmfuse.layers.pooling import AttentionPool


@recorded
class GraphFusion(nn.Module):
    r"""Graph attention over one node for each modality and one for each pair of them.

    .. math::
        \alpha_{ij} = \operatorname{softmax}_{j \in N(i)}\, \operatorname{LeakyReLU}\bigl(
            a^\top [W v_i; W v_j]\bigr), \qquad
        v_i \leftarrow v_i + \operatorname{GELU}\Bigl(\sum_{j \in N(i)} \alpha_{ij} W v_j\Bigr), \qquad
        h = \operatorname{Pool}(v)

    The nodes start as :math:`v_m = \operatorname{GELU}(P_m x_m)` and
    :math:`v_{mn} = \operatorname{GELU}(U_m x_m + U_n x_n)`. Modalities are neighbours of each other, a pair of its two
    modalities, and every node of itself, so that none is isolated. Each layer has its W and a, with heads side by side
    (eqs. 1 to 5 of GAT, with GELU in place of ELU, and the skip connection that its authors use in their deepest
    network). Pool is attention over the nodes with one learned query. The dynamic fusion graph of Graph-MFN also joins
    modalities and combinations of them; its edges have learned efficacies in place of attention, and it has a node for
    each larger combination, too. With a single modality there is one node, which can only read itself.

    ``Fused.weights`` is the share of each modality in Pool, mean over heads; a pair counts half for each of its two.
    What a node learned from its neighbours counts for the node.

    Source: Velickovic et al. (2018), "Graph Attention Networks", https://arxiv.org/abs/1710.10903; Zadeh et al. (2018),
    "Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable Dynamic Fusion Graph",
    https://aclanthology.org/P18-1208.

    Reads: pooled vectors.

    Absent: its node and its pairs are no neighbours and have no share. A sample with nothing at all gives zeros.

    Cost: parameters ``2 sum_m d_m dim + (num_layers + 3) dim^2``; time for N = M (M + 1) / 2 nodes
    ``num_layers (N dim^2 + N^2 dim)``, all nodes, edges and heads at once.

    Use: for three to about eight modalities of which any may be missing, where pairs matter. With two modalities there
    is one pair, and GatedFusion or a bilinear method is simpler.

    Args:
        dims: width of each modality.
        dim: width of the nodes and of the fused vector; a multiple of ``num_heads``.
        num_heads: attention heads.
        num_layers: rounds of messages.
        dropout: of the messages.
    """

    reads = "pooled"

    def __init__(
        self, dims: Mapping[str, int], dim: int, *, num_heads: int = 4, num_layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        require_dims("GraphFusion", dims, dim)
        require_positive("GraphFusion", num_heads=num_heads, num_layers=num_layers)
        require_heads("GraphFusion", dim, num_heads)
        require_share("GraphFusion", dropout=dropout)
        nodes = [*((name,) for name in dims), *combinations(dims, 2)]
        members = torch.tensor([[int(name in node) for name in dims] for node in nodes])  # (node, modality)
        # A modality gives P_m x_m to its own node and U_m x_m to each of its pairs; a single one has no pair.
        own = F.one_hot(torch.arange(len(nodes)), len(nodes))[:, : len(dims)]
        parts = torch.stack([own, members - own], dim=2).flatten(1) if len(dims) > 1 else own
        self.dim = dim
        self.members: Tensor
        self.neighbours: Tensor
        self.parts: Tensor
        self.register_buffer("parts", parts.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("members", members.bool(), persistent=False)
        self.register_buffer("neighbours", _neighbours(self.members), persistent=False)
        starts = dim * parts.shape[1] // len(dims)
        self.project = nn.ModuleDict({name: nn.Linear(width, starts) for name, width in dims.items()})
        self.layers = nn.ModuleList(_Layer(dim, num_heads, dropout) for _ in range(num_layers))
        self.pool = AttentionPool(dim, num_heads)

    def forward(self, features: Mapping[str, Features]) -> Fused:
        pooled, present = read_pooled(features, self.project)
        there = (present[:, None] | ~self.members).all(dim=2)  # (batch, node): all its members are present
        starts = torch.stack([project(pooled[name]) for name, project in self.project.items()], dim=1)
        nodes = F.gelu(self.parts @ starts.unflatten(2, (-1, self.dim)).flatten(1, 2))
        neighbours = self.neighbours & there[:, None]  # (batch, node, node)
        for layer in self.layers:
            nodes = layer(nodes, neighbours)
        shares = self.pool.shares(nodes, there)  # (batch, head, node)
        members = self.members.to(shares.dtype)
        weights = shares.mean(dim=1) @ (members / members.sum(dim=1, keepdim=True))
        fused = Features.from_pooled(self.pool.gather(nodes, shares, there), present.any(dim=1))
        return Fused(fused, weights=by_name(self.project, weights))


def _neighbours(members: Bool[Tensor, "node modality"]) -> Bool[Tensor, "node node"]:
    """Modalities with each other, pairs with their two modalities, and each node with itself."""
    count = members.shape[1]
    neighbours = torch.eye(len(members), dtype=torch.bool)
    neighbours[:count, :count] = True
    neighbours[count:, :count] = members[count:]
    neighbours[:count, count:] = members[count:].T
    return neighbours


class _Layer(nn.Module):
    """One round of messages: eqs. 1 to 5 of GAT, with GELU and a skip connection."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.message = nn.Linear(dim, dim, bias=False)
        # a of the paper: a column for the node that reads, a column for the node that is read.
        self.score = nn.Parameter(torch.randn(num_heads, dim // num_heads, 2) * (dim // num_heads) ** -0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, nodes: Float[Tensor, "batch node dim"], neighbours: Bool[Tensor, "batch node node"]
    ) -> Float[Tensor, "batch node dim"]:
        messages = self.message(nodes).unflatten(2, self.score.shape[:2])  # (batch, node, head, dim/head)
        by_head = messages.flatten(0, 1).transpose(0, 1)  # (head, batch * node, dim/head)
        reads, is_read = (by_head @ self.score).unflatten(1, nodes.shape[:2]).permute(3, 1, 0, 2).unbind(0)
        scores = F.leaky_relu(reads[..., None] + is_read[..., None, :], 0.2)  # (batch, head, node, node)
        weights = masked_softmax(scores, neighbours[:, None].expand_as(scores))
        update = (weights.to(messages.dtype) @ messages.transpose(1, 2)).transpose(1, 2).flatten(2)
        return nodes + self.dropout(F.gelu(update))
