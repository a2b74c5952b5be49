"""Files as people have them, made on the spot: photos of smooth noise, speech-like sound, clips, texts, tables."""

import csv
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate


def photos(folder: Path, width: int, height: int, count: int) -> list[Path]:
    """JPEG files of quality 90, every other one upright; noise of several sizes, as the details of photos are."""
    from PIL import Image

    paths = []
    for number in range(count):
        sides = (width, height) if number % 2 else (height, width)
        path = folder / f"{width}x{height}-{number}.jpg"
        Image.fromarray(smooth_noise(*sides, seed=number).numpy()).save(path, quality=90)
        paths.append(path)
    return paths


def smooth_noise(height: int, width: int, *, seed: int) -> torch.Tensor:
    """uint8 (height, width, channel=3): octaves of noise with about as many bits a pixel in a JPEG as photos have."""
    random = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, height, width)
    for octave in range(2, max(height, width).bit_length()):
        sides = (2**octave, 2**octave)
        grey, colours = (torch.randn(1, channels, *sides, generator=random) for channels in (1, 3))
        cells = grey + colours * (0.4 if octave < 6 else 0.1)  # fine colours are rare
        picture += 0.7 ** (octave - 2) * interpolate(cells, (height, width), mode="bicubic")
    return (127 + 45 * picture).clamp(0, 255).byte()[0].permute(1, 2, 0).contiguous()


def sound(seconds: float, rate_hz: int, *, seed: int) -> np.ndarray:
    """float32 (time,): tones that come and go, and some noise."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    wave = 0.02 * random.standard_normal(len(time))
    for hz in random.uniform(80, 4000, 12):
        wave += 0.06 * np.sin(2 * np.pi * hz * time) * np.sin(2 * np.pi * random.uniform(0.2, 4) * time) ** 2
    return wave.astype(np.float32)


def clips(folder: Path, ending: str, count: int, *, seconds: float = 5, rate_hz: int = 44_100) -> list[Path]:
    """Sound files; wav in 16 bits."""
    import soundfile

    paths = [folder / f"{rate_hz}-{number}.{ending}" for number in range(count)]
    for number, path in enumerate(paths):
        soundfile.write(path, sound(seconds, rate_hz, seed=number), rate_hz)
    return paths


def film(path: Path, *, frames: int, width: int, height: int) -> Path:
    """An H.264 file of 25 frames a second and a keyframe every two seconds: a view that moves over a picture."""
    import av

    picture = smooth_noise(height + 64, width + frames, seed=0).numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 50
        for number in range(frames):
            part = np.ascontiguousarray(picture[number % 64 : number % 64 + height, number : number + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def texts(count: int, *, words: tuple[int, int] = (5, 60)) -> list[str]:
    """Texts of unequal length, of 2,000 words that do not exist."""
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    known = ["".join(random.choice(letters, random.integers(2, 10))) for _ in range(2000)]
    return [" ".join(random.choice(known, random.integers(*words))) for _ in range(count)]


def big_csv(path: Path, rows: int) -> Path:
    """A table of paths, texts and labels."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "image", "text", "label"])
        writer.writerows([i, f"photos/{i:07d}.jpg", f"the text of number {i}", "ab"[i % 2]] for i in range(rows))
    return path
