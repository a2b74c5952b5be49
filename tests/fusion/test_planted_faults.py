"""check_fusion sees every fault that other libraries have, and names the promise that is broken."""

import pytest
import torch
from torch import nn

from mmfuse.contracts import Features, Fused
from mmfuse.layers.attention import Attention
from mmfuse.layers.masking import masked_mean, masked_softmax
from mmfuse.testing import FUSION_PROMISES, check_fusion

SCORES = {"text": 1.0, "audio": 2.0, "image": 3.0}


class Sound(nn.Module):
    """A weighted average of mean tokens that keeps every promise; each fault below changes one of its steps."""

    def __init__(self, dims):
        super().__init__()
        self.project = nn.ModuleDict({name: nn.Linear(width, 8) for name, width in dims.items()})

    def forward(self, features):
        inputs = self.read(features)
        present = torch.stack([x.present for x in inputs.values()], dim=1)
        weights = self.weigh(present, next(iter(inputs.values())).pooled.dtype)
        values = {name: self.project[name](self.pool(x)) for name, x in inputs.items()}
        pooled = torch.einsum("bm,bmd->bd", weights, self.stack(values))
        shares = dict(zip(inputs, weights.unbind(dim=1), strict=True))
        return Fused(Features.from_pooled(pooled, present.any(dim=1)), shares)

    def read(self, features):
        return {name: features[name].zeroed() for name in self.project}

    def weigh(self, present, dtype):
        return masked_softmax(self.scores(dtype).expand(present.shape), present)

    def scores(self, dtype):
        return torch.arange(len(self.project), dtype=dtype)

    def pool(self, x):
        return masked_mean(x.tokens, x.mask)

    def stack(self, values):
        return torch.stack(list(values.values()), dim=1)


class NotZeroed(Sound):
    def read(self, features):
        return {name: features[name] for name in self.project}

    def pool(self, x):
        return x.pooled


class Multiplied(NotZeroed):
    def pool(self, x):
        return x.pooled * x.present[:, None]


class MaskedByInfinity(Sound):
    def weigh(self, present, dtype):
        return self.scores(dtype).expand(present.shape).masked_fill(~present, -torch.inf).softmax(dim=1)


class SoftmaxOverAbsent(Sound):
    def weigh(self, present, dtype):
        return self.scores(dtype).expand(present.shape).softmax(dim=1)


class MeanOverPadding(Sound):
    def pool(self, x):
        return x.tokens.mean(dim=1)


class MaxOverPadding(Sound):
    def pool(self, x):
        return x.tokens.amax(dim=1)


class OrderOfTheMapping(Sound):
    def read(self, features):
        return {name: x.zeroed() for name, x in features.items()}


class HardCodedNames(Sound):
    def weigh(self, present, dtype):
        scores = torch.tensor([SCORES.get(name, 0.0) for name in self.project], dtype=dtype)
        return masked_softmax(scores.expand(present.shape), present)


class BatchStatistics(Sound):
    def stack(self, values):
        stacked = super().stack(values)
        return stacked - stacked.mean(dim=0)


class AttentionOverTheBatch(Sound):
    """Two axes given to nn.MultiheadAttention are one sequence."""

    def __init__(self, dims):
        super().__init__(dims)
        self.attention = nn.MultiheadAttention(8, 2)

    def stack(self, values):
        read = {name: value + self.attention(value, value, value)[0] for name, value in values.items()}
        return super().stack(read)


class UnusedLayer(Sound):
    def __init__(self, dims):
        super().__init__(dims)
        self.unused = nn.Linear(2, 2)


class FactorsInAPlainList(Sound):
    def __init__(self, dims):
        super().__init__(dims)
        self.factors = [torch.randn(8, dtype=torch.float64) for _ in dims]

    def stack(self, values):
        factors = [factor.to(next(iter(values.values())).dtype) for factor in self.factors]
        return super().stack(values) * torch.stack(factors)


class HalfThatIgnoresItsInput(Sound):
    """Attention over one key gives its value, whatever the query says: the first modality is not read at all."""

    def __init__(self, dims):
        super().__init__(dims)
        self.attention = Attention(8, 2)

    def stack(self, values):
        first, *others = values
        read = self.attention(values[first][:, None], values[others[0]][:, None])[:, 0]
        return super().stack({**values, first: read})


class DetachedHalf(Sound):
    def stack(self, values):
        first = next(iter(values))
        return super().stack({**values, first: values[first] * values[first].detach()})


class Item(Sound):
    def pool(self, x):
        pooled = super().pool(x)
        assert pooled.abs().sum().item() < 1e30
        return pooled


class FixedBatch(Sound):
    def stack(self, values):
        return super().stack(values).reshape(6, -1, 8)


class TensorOfAGraph(Sound):
    """torch refuses to copy a tensor that is part of a graph."""

    def __init__(self, dims):
        super().__init__(dims)
        self.scale = next(iter(self.project.values())).bias * 0


class LeakOfDoubles(Sound):
    def scores(self, dtype):
        return super().scores(dtype).double()

    def weigh(self, present, dtype):
        return masked_softmax(self.scores(dtype).expand(present.shape), present)

    def stack(self, values):
        return super().stack(values).double()


class ChangesItsInput(Sound):
    def read(self, features):
        for x in features.values():
            x.tokens.masked_fill_(~x.mask[..., None], 0.0)
        return super().read(features)


class RandomInEvaluation(Sound):
    def pool(self, x):
        return super().pool(x) * (1 + 1e-12 * torch.rand(1, dtype=x.pooled.dtype))


class PresentForNobody(Sound):
    def forward(self, features):
        fused = super().forward(features)
        return Fused(Features.from_pooled(fused.features.pooled, torch.ones_like(fused.features.present)))


class RandomMaskInTraining(NotZeroed):
    def read(self, features):
        return {n: features[n] if self.training else features[n].zeroed() for n in self.project}


FAULTS = {
    NotZeroed: "what is not real is not read",
    Multiplied: "what is not real is not read",
    MaskedByInfinity: "what is not real is not read",
    SoftmaxOverAbsent: "absence has no weight",
    MeanOverPadding: "padding length does not matter",
    MaxOverPadding: "padding length does not matter",
    HalfThatIgnoresItsInput: "every present modality matters",
    PresentForNobody: "the smallest batch is answered",
    OrderOfTheMapping: "the order of modalities does not matter",
    HardCodedNames: "names do not matter",
    BatchStatistics: "samples do not mix",
    AttentionOverTheBatch: "samples do not mix",
    UnusedLayer: "every parameter learns",
    FactorsInAPlainList: "the state dict holds all",
    DetachedHalf: "gradients are right",
    RandomMaskInTraining: "training reads only what is real",
    Item: "it compiles whole",
    FixedBatch: "it exports",
    TensorOfAGraph: "it can be copied",
    LeakOfDoubles: "low precision agrees",
    ChangesItsInput: "inputs stay as they were",
    RandomInEvaluation: "evaluation is repeatable",
}


@pytest.mark.plain
def test_the_faults_are_planted_in_a_fusion_that_is_sound():
    check_fusion(Sound)


@pytest.mark.plain
@pytest.mark.parametrize(("fault", "promise"), FAULTS.items(), ids=[fault.__name__ for fault in FAULTS])
def test_a_planted_fault_is_caught_by_name(fault, promise):
    others = [name for name in FUSION_PROMISES if name != promise]

    with pytest.raises(AssertionError, match=f"{fault.__name__} breaks the promise '{promise}'"):
        check_fusion(fault, skip=others)


def test_every_promise_has_a_fault_that_breaks_it():
    assert set(FAULTS.values()) == set(FUSION_PROMISES)


def test_an_unknown_promise_cannot_be_skipped():
    with pytest.raises(ValueError, match="unknown promise 'it compile whole'.*Did you mean 'it compiles whole'"):
        check_fusion(Sound, skip=["it compile whole"])
