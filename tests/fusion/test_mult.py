"""MulT equals its equation, on sequences of equal and of unequal lengths, and keeps the promises."""

import math

import pytest
import torch
import torch.nn.functional as F
from fusion_equations import read_heads

from mmfuse.contracts import Features
from mmfuse.fusion.mult import MulT
from mmfuse.testing import DIMS, check_fusion, random_features


@pytest.mark.plain
def test_keeps_the_promises_of_a_fusion():
    check_fusion(lambda dims: MulT(dims, 8, num_layers=2))


@pytest.mark.plain
def test_keeps_them_for_two_modalities_with_a_wider_convolution():
    check_fusion(
        lambda dims: MulT(dims, 8, num_heads=2, num_layers=1, kernels={next(iter(dims)): 3}),
        dims={"text": 6, "audio": 4},
    )


def of_equal_lengths(features):
    """The same samples, all modalities padded to one length."""
    time = max(x.mask.shape[1] for x in features.values())
    return {
        name: Features(
            F.pad(x.tokens, (0, 0, 0, time - x.mask.shape[1]), value=1e4),
            F.pad(x.mask, (0, time - x.mask.shape[1])),
            x.pooled,
        )
        for name, x in features.items()
    }


@pytest.mark.parametrize("names", [["text", "audio", "image"], ["text", "audio"], ["text"]])
def test_equals_its_equation(names):
    torch.manual_seed(0)
    dims = {name: DIMS[name] for name in names}
    fusion = MulT(dims, 8, num_heads=2, num_layers=2, kernels={"text": 3}).double().eval()
    features = {name: x for name, x in random_features().items() if name in names}

    unequal, equal = fusion(features).features.pooled, fusion(of_equal_lengths(features)).features.pooled

    for i in range(6):
        expected = one_sample(fusion, {name: x.tokens[i, x.mask[i]] for name, x in features.items()})
        torch.testing.assert_close(unequal[i], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(equal[i], expected, rtol=0, atol=1e-12)


def one_sample(fusion, real):
    """The equation over the real tokens of one sample, stream by stream and token by token."""
    names, others = list(real), max(len(real) - 1, 1)
    low = {name: low_level(fusion.project[name], tokens) for name, tokens in real.items()}
    pairs = [(m, n) for m in names for n in names if m != n]
    last = []
    for place, m in enumerate(names):
        read = [stream(fusion.streams, pairs.index((m, n)), low[m], low[n]) for n in names if n != m]
        z = [torch.cat(parts) for parts in zip(*read, strict=True)] if read else low[m]
        for layer, key_value in zip(fusion.memory.layers, fusion.memory.key_value, strict=True):
            both = [linear(key_value, place, norm(x)) for x in z]
            z = [step(layer, place, x, both) for x in z]
        last.append(norm(z[-1]) if z else fusion.absent.view(len(names), others * 8)[place])
    return fusion.out.weight @ torch.cat(last) + fusion.out.bias


def low_level(convolution, tokens):
    """Temporal convolution with zeros beyond the ends, and sinusoidal positions."""
    reach, zero, result = convolution.kernel_size[0] // 2, torch.zeros(tokens.shape[1], dtype=tokens.dtype), []
    for t in range(len(tokens)):
        z = convolution.bias
        for place in range(-reach, reach + 1):
            x = tokens[t + place] if 0 <= t + place < len(tokens) else zero
            z = z + convolution.weight[:, :, reach + place] @ x
        angles = [t / 10000 ** (2 * (j // 2) / 8) for j in range(8)]
        sines = [math.cos(a) if j % 2 else math.sin(a) for j, a in enumerate(angles)]
        result.append(z + torch.tensor(sines, dtype=tokens.dtype))
    return result


def stream(streams, place, z, sources):
    """The stack of one ordered pair."""
    projected = [linear(streams.key_value, place, norm(x)).chunk(len(streams.layers)) for x in sources]
    for number, layer in enumerate(streams.layers):
        z = [step(layer, place, x, [parts[number] for parts in projected]) for x in z]
    return z


def step(layer, place, x, key_values):
    """One token through one layer."""
    if key_values:
        keys, values = zip(*(both.chunk(2) for both in key_values), strict=True)
        read = read_heads(linear(layer.query, place, norm(x)), keys, values, layer.num_heads)
        x = x + linear(layer.out, place, read)
    return x + linear(layer.down, place, linear(layer.up, place, norm(x)).clamp(min=0))


def linear(stacked, place, x):
    """One of the linear layers that stand side by side."""
    return x @ stacked.weight[place] + stacked.bias.view(len(stacked.weight), -1)[place]


def norm(x):
    return (x - x.mean()) / torch.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)


def test_only_the_last_real_token_of_the_last_layer_comes_out():
    fusion = MulT(DIMS, 8, num_layers=1).double().eval()

    fused = fusion(random_features())

    assert fused.features.tokens.shape == (6, 1, 8)
    assert fused.features.present.tolist() == [True] * 5 + [False]


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    fusion, features = MulT(DIMS, 8, num_layers=1, dropout=0.5).double(), random_features()

    assert not torch.equal(fusion(features).features.pooled, fusion(features).features.pooled)
    fusion.eval()
    assert torch.equal(fusion(features).features.pooled, fusion(features).features.pooled)


@pytest.mark.plain
def test_other_lengths_compile_once_more_at_most():
    from torch._dynamo.testing import CompileCounter

    fusion = MulT(DIMS, 8, num_heads=2, num_layers=1).eval()
    torch._dynamo.reset()
    count = CompileCounter()
    compiled = torch.compile(fusion, fullgraph=True, backend=count)

    for extra in range(8):
        x = {name: torch.randn(2, 5 + 3 * place + 2 * extra, DIMS[name]) for place, name in enumerate(DIMS)}
        compiled({n: Features(t, torch.ones(t.shape[:2], dtype=torch.bool), t.mean(dim=1)) for n, t in x.items()})

    assert count.frame_count <= 2


@pytest.mark.plain
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 10}, "MulT cannot split dim=10 into num_heads=4 equal heads.* Choose dim=12"),
        ({"dim": 8, "num_layers": 0}, "MulT got num_layers=0. Expected a number above 0"),
        ({"dim": 8, "dropout": 1.0}, "MulT got dropout=1.0. Expected a share from 0 to below 1"),
        ({"dim": 8, "kernels": {"txt": 3}}, "unknown modality 'txt'.* Did you mean 'text'?"),
        (
            {"dim": 8, "kernels": {"text": 4}},
            r"MulT got kernels\['text'\]=4. Expected an odd number.* Choose 1, 3 or 5",
        ),
    ],
)
def test_one_that_cannot_work_is_not_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        MulT({"text": 4, "audio": 4}, **arguments)
