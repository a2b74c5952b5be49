"""What the benchmarks of training train: a model of three transformers, and one in which nothing is to be computed."""

from collections.abc import Mapping

import torch
from torch import nn

from mmfuse import Batch, Features, Fused, Input, MultimodalModel, Target, dims_of
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import SpeechEncoder, TextEncoder, ViTEncoder
from mmfuse.fusion import CrossAttention
from mmfuse.tasks import Classification

CLASSES, WIDTH = 5, 64
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def three_modalities(*, size: int = 8, number: int = 4) -> tuple[MultimodalModel, list[Batch]]:
    """ViT, BERT and wav2vec2 of transformers, 64 wide with two layers each, cross-attention; no dropout."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a few words that nobody will ever read again"], vocab_size=200)
    encoders = {
        "image": ViTEncoder.preset("tiny"),
        "text": TextEncoder.preset("tiny", tokenizer=tokenizer, max_length=16),
        "audio": SpeechEncoder.preset("tiny"),
    }
    model = MultimodalModel(
        encoders, CrossAttention(dims_of(encoders), WIDTH), {"label": Classification(WIDTH, CLASSES)}
    )
    random = torch.Generator().manual_seed(1)
    return model.to(DEVICE), [_three(size, len(tokenizer), random) for _ in range(number)]


def _three(size: int, words: int, random: torch.Generator) -> Batch:
    present, lengths = torch.ones(size, dtype=torch.bool), torch.randint(8, 17, (size,), generator=random)
    inputs = {
        "image": Input(torch.randint(0, 256, (size, 3, 32, 32), generator=random, dtype=torch.uint8), present),
        "text": Input(
            torch.randint(5, words, (size, 16), generator=random), present, torch.arange(16) < lengths[:, None]
        ),
        "audio": Input(torch.randn(size, 4000, generator=random), present, torch.arange(4000) < 250 * lengths[:, None]),
    }
    return Batch(inputs, _labels(size, random))


def nothing(*, size: int = 32, number: int = 4) -> tuple[MultimodalModel, list[Batch]]:
    """Twenty products with a vector and one linear layer: what takes time is the loop itself."""
    torch.manual_seed(0)
    model = MultimodalModel({"vector": Products()}, Only(), {"label": Classification(WIDTH, CLASSES)})
    random = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(number):
        given = Input(torch.randn(size, WIDTH, generator=random), torch.ones(size, dtype=torch.bool))
        batches.append(Batch({"vector": given}, _labels(size, random)))
    return model.to(DEVICE), batches


class Products(nn.Module):
    """Vectors, times one vector after the other."""

    dim = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.ParameterList(torch.ones(WIDTH) for _ in range(20))

    def forward(self, input: Input) -> Features:
        values = input.values
        for factor in self.factors:
            values = values * factor
        return Features.from_pooled(values, input.present)


class Only(nn.Module):
    """The only modality, as it is."""

    def forward(self, features: Mapping[str, Features]) -> Fused:
        (only,) = features.values()
        return Fused(only)


def _labels(size: int, random: torch.Generator) -> dict[str, Target]:
    classes = torch.randint(0, CLASSES, (size,), generator=random)
    return {"label": Target(classes, torch.ones(size, dtype=torch.bool))}
