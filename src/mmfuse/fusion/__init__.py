"""Fusion methods: ``{name: Features} -> Fused``, one published method a file.

Every method of ``FUSIONS`` is built as ``Method(dims, dim)``, keeps the promises of
:func:`mmfuse.testing.check_fusion`, and takes a single modality as well as many; those with ``num_modalities`` take
exactly so many. ``Nested`` makes the fusion of some modalities one modality of another fusion.
"""

from torch import nn

from mmfuse.fusion.adaptation_gate import AdaptationGate
from mmfuse.fusion.attention_fusion import AttentionFusion
from mmfuse.fusion.block import BLOCK
from mmfuse.fusion.bottleneck import BottleneckFusion
from mmfuse.fusion.co_attention import CoAttention
from mmfuse.fusion.concat import Concat
from mmfuse.fusion.cross_attention import CrossAttention
from mmfuse.fusion.deep_sets import DeepSets
from mmfuse.fusion.embracenet import EmbraceNet
from mmfuse.fusion.evidential import EvidentialFusion
from mmfuse.fusion.experts import ExpertFusion
from mmfuse.fusion.film import FiLM
from mmfuse.fusion.gated import GatedFusion, SoftmaxGatedFusion
from mmfuse.fusion.gated_cross_attention import GatedCrossAttention
from mmfuse.fusion.graph import GraphFusion
from mmfuse.fusion.healnet import HealNet
from mmfuse.fusion.late import LateFusion
from mmfuse.fusion.low_rank import LowRankFusion
from mmfuse.fusion.mfb import MFB
from mmfuse.fusion.mlb import MLB
from mmfuse.fusion.mult import MulT
from mmfuse.fusion.multiplicative_interaction import MultiplicativeInteraction
from mmfuse.fusion.mutan import MUTAN
from mmfuse.fusion.nested import Nested
from mmfuse.fusion.perceiver import PerceiverFusion
from mmfuse.fusion.product_of_experts import MixtureOfProducts, ProductOfExperts
from mmfuse.fusion.qformer import QFormer
from mmfuse.fusion.shared_private import SharedPrivate
from mmfuse.fusion.single_stream import SingleStream
from mmfuse.fusion.tensor_fusion import TensorFusion
from mmfuse.fusion.weighted_average import WeightedAverage

FUSIONS: dict[str, type[nn.Module]] = {
    "AdaptationGate": AdaptationGate,
    "AttentionFusion": AttentionFusion,
    "BLOCK": BLOCK,
    "BottleneckFusion": BottleneckFusion,
    "CoAttention": CoAttention,
    "Concat": Concat,
    "CrossAttention": CrossAttention,
    "DeepSets": DeepSets,
    "EmbraceNet": EmbraceNet,
    "EvidentialFusion": EvidentialFusion,
    "ExpertFusion": ExpertFusion,
    "FiLM": FiLM,
    "GatedCrossAttention": GatedCrossAttention,
    "GatedFusion": GatedFusion,
    "GraphFusion": GraphFusion,
    "HealNet": HealNet,
    "LateFusion": LateFusion,
    "LowRankFusion": LowRankFusion,
    "MFB": MFB,
    "MLB": MLB,
    "MUTAN": MUTAN,
    "MixtureOfProducts": MixtureOfProducts,
    "MulT": MulT,
    "MultiplicativeInteraction": MultiplicativeInteraction,
    "PerceiverFusion": PerceiverFusion,
    "ProductOfExperts": ProductOfExperts,
    "QFormer": QFormer,
    "SharedPrivate": SharedPrivate,
    "SingleStream": SingleStream,
    "SoftmaxGatedFusion": SoftmaxGatedFusion,
    "TensorFusion": TensorFusion,
    "WeightedAverage": WeightedAverage,
}

__all__ = [
    "BLOCK",
    "FUSIONS",
    "MFB",
    "MLB",
    "MUTAN",
    "AdaptationGate",
    "AttentionFusion",
    "BottleneckFusion",
    "CoAttention",
    "Concat",
    "CrossAttention",
    "DeepSets",
    "EmbraceNet",
    "EvidentialFusion",
    "ExpertFusion",
    "FiLM",
    "GatedCrossAttention",
    "GatedFusion",
    "GraphFusion",
    "HealNet",
    "LateFusion",
    "LowRankFusion",
    "MixtureOfProducts",
    "MulT",
    "MultiplicativeInteraction",
    "Nested",
    "PerceiverFusion",
    "ProductOfExperts",
    "QFormer",
    "SharedPrivate",
    "SingleStream",
    "SoftmaxGatedFusion",
    "TensorFusion",
    "WeightedAverage",
]
