"""Activations that are computed again in the backward pass instead of kept."""

import copy

import pytest
import torch
from processes import in_a_process_of_its_own
from tiny_data import WORDS
from tiny_models import BERT, SPEECH, VIT, clips
from torch import nn

from mmfuse import Input
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import (
    CNNEncoder,
    FTTransformerEncoder,
    LoRA,
    PatchSeriesEncoder,
    SpectrogramEncoder,
    SpeechEncoder,
    TextEncoder,
    TransformerEncoder,
    Video3DEncoder,
    ViTEncoder,
)

EVERY = torch.ones(4, dtype=torch.bool)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def tokenizer():
    return train_tokenizer(WORDS, vocab_size=60)


def ids():
    return Input(torch.randint(5, 30, (4, 24), generator=torch.Generator().manual_seed(0)), EVERY, noise(4, 24) < 1)


NUMBERS = {f"n{i}": (0.0, 1.0) for i in range(12)}
CASES = {
    "vit": (lambda **o: ViTEncoder({"model_type": "vit", **VIT}, **o), lambda: Input(noise(4, 3, 32, 32), EVERY)),
    "bert": (lambda **o: TextEncoder({"model_type": "bert", **BERT}, tokenizer(), **o), ids),
    "wav2vec2": (
        lambda **o: SpeechEncoder({"model_type": "wav2vec2", **SPEECH}, **o),
        lambda: clips([6400, 3200, 8000, 1600]),
    ),
    "resnet18": (lambda **o: CNNEncoder("resnet18", size=32, **o), lambda: Input(noise(4, 3, 32, 32), EVERY)),
    "convnext": (lambda **o: CNNEncoder.preset("tiny", **o), lambda: Input(noise(4, 3, 32, 32), EVERY)),
    "swin3d": (lambda **o: Video3DEncoder.preset("tiny", **o), lambda: Input(noise(4, 8, 3, 32, 32), EVERY)),
    "r3d": (
        lambda **o: Video3DEncoder("r3d_18", size=16, num_frames=4, **o),
        lambda: Input(noise(4, 4, 3, 16, 16), EVERY),
    ),
    "transformer": (
        lambda **o: TransformerEncoder(32, width=5, num_layers=3, dropout=0.3, **o),
        lambda: Input(noise(4, 24, 5), EVERY, noise(4, 24) < 1),
    ),
    "patches": (
        lambda **o: PatchSeriesEncoder(32, channels=2, patch=4, **o),
        lambda: Input(noise(4, 64, 2), EVERY, torch.ones(4, 64, dtype=torch.bool)),
    ),
    "spectrogram": (lambda **o: SpectrogramEncoder.preset("small", **o), lambda: clips([6400, 3200, 8000, 1600])),
    "table": (
        lambda **o: FTTransformerEncoder(32, numbers=NUMBERS, dropout=0.2, **o),
        lambda: Input(noise(4, 24).abs(), EVERY),
    ),
}


def pair(name):
    """An encoder, and one of equal weights that recomputes its activations; in training."""
    make, _ = CASES[name]
    torch.manual_seed(0)
    plain, saving = make(), make(checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    return plain.train(), saving.train()


def backward(encoder, input):
    """One pass with dropout; the bytes that were kept for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(7)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = encoder(input).zeroed()
    loss = features.tokens.square().mean() + features.pooled.sin().mean()
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize("name", CASES)
def test_gradients_and_statistics_are_the_same_and_less_is_kept(name):
    (plain, saving), input = pair(name), CASES[name][1]()

    most, least = backward(plain, input), backward(saving, input)

    assert least < 0.7 * most
    for (key, parameter), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert parameter.grad is not None, key
        torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-5, atol=1e-7, msg=key)
    for (key, value), other in zip(plain.state_dict().items(), saving.state_dict().values(), strict=True):
        assert torch.equal(other, value), key  # the statistics of BatchNorm count a batch once


@pytest.mark.parametrize("name", ["vit", "bert", "wav2vec2"])
def test_adapters_of_a_frozen_backbone_learn_the_same(name):
    (plain, saving), input = pair(name), CASES[name][1]()
    torch.manual_seed(1)
    adapted = LoRA(plain, rank=2)
    torch.manual_seed(1)
    others = LoRA(saving, rank=2)

    backward(adapted, input)
    backward(others, input)

    for (key, parameter), other in zip(adapted.named_parameters(), others.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), key
        if parameter.requires_grad:
            torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-5, atol=1e-7, msg=key)


def test_frozen_stages_keep_their_statistics():
    torch.manual_seed(0)
    encoder = CNNEncoder("resnet18", size=32, freeze=2, checkpointing=True).train()
    before = copy.deepcopy(encoder.state_dict())

    backward(encoder, CASES["resnet18"][1]())

    moved = {n for n, x in encoder.state_dict().items() if "running" in n and not torch.equal(x, before[n])}
    assert moved
    assert all(n.startswith(("backbone.3.", "backbone.4.")) for n in moved)


@pytest.mark.parametrize("name", ["transformer", "resnet18", "swin3d"])
def test_without_gradients_nothing_changes(name):
    (plain, saving), input = pair(name), CASES[name][1]()

    with torch.no_grad():
        found, expected = saving.eval()(input), plain.eval()(input)

    assert torch.equal(found.tokens, expected.tokens)


@pytest.mark.plain
@pytest.mark.parametrize("name", ["transformer", "resnet18"])
@in_a_process_of_its_own
def test_it_compiles(name):
    torch._dynamo.reset()
    (_, saving), input = pair(name), CASES[name][1]()
    other = copy.deepcopy(saving)
    for part in [*saving.modules(), *other.modules()]:
        if isinstance(part, nn.Dropout):
            part.p = 0.0

    compiled = torch.compile(saving, backend="aot_eager")

    backward(compiled, input)
    backward(other, input)
    for (key, parameter), expected in zip(saving.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=key)
