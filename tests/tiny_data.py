"""A table of real files, small enough for tests: pictures, sounds and words that all say which class it is."""

from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image

from mmfuse import MultimodalModel, dims_of
from mmfuse.data.transforms import train_tokenizer
from mmfuse.encoders import SpectrogramEncoder, TextEncoder, ViTEncoder
from mmfuse.fusion import FUSIONS
from mmfuse.tasks import Classification, Regression

WORDS = ("red apple", "green leaf", "blue water")


def write_rows(folder: Path, rows: int = 12, name: str = "train.csv") -> Path:
    """A CSV with image, audio, text, kind (a class) and size (a number); some cells are empty."""
    random = np.random.default_rng(0)
    lines = ["image,audio,text,kind,size"]
    for i in range(rows):
        kind = i % 3
        pixels = random.integers(0, 60, (16, 16, 3))
        pixels[..., kind] += 190
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
        time = np.arange(1600 + 160 * (i % 4)) / 16000
        soundfile.write(folder / f"{i}.wav", 0.5 * np.sin(2 * np.pi * 300 * (kind + 1) * time), 16000)
        image = "" if i % 6 == 4 else f"{i}.png"
        audio = "" if i % 6 == 2 else f"{i}.wav"
        text = "" if i % 6 == 3 else WORDS[kind]
        size = "" if i % 5 == 1 else str(10 * kind + 5)
        lines.append(f"{image},{audio},{text},kind{kind},{size}")
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def make_model(*, fusion: str = "Concat", dim: int = 32, seed: int = 0) -> MultimodalModel:
    """Three tiny encoders, two tasks."""
    torch.manual_seed(seed)
    encoders = {
        "image": ViTEncoder.preset("tiny", size=16),
        "audio": SpectrogramEncoder(dim=32, num_mels=24),
        "text": TextEncoder.preset("tiny", tokenizer=train_tokenizer(WORDS, vocab_size=60)),
    }
    return MultimodalModel(
        encoders,
        FUSIONS[fusion](dims_of(encoders), dim),
        {
            "kind": Classification(dim, ["kind0", "kind1", "kind2"]),
            "size": Regression(dim, mean=15.0, std=8.0),
        },
    )
