"""The data of digit_arithmetic.py: a written digit, a spoken one, and a sentence that says what to do with them."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice, product
from pathlib import Path
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test")
OPERATIONS = {
    "sum": lambda written, spoken: written + spoken,
    "written minus spoken": lambda written, spoken: written - spoken,
    "distance": lambda written, spoken: abs(written - spoken),
    "larger": max,
    "smaller": min,
}

# NOUN becomes digit, number or figure where it comes first in a sentence, and "one" after that.
WRITTEN = ("the written NOUN", "the drawn NOUN", "the NOUN in the picture")
SPOKEN = ("the spoken NOUN", "the NOUN said aloud", "the NOUN in the recording")
PAIRS = ("the two NOUNs", "these two NOUNs", "the two given NOUNs")
NOUNS = ("digit", "number", "figure")
COMPARATIVES = {"larger": ("larger", "greater"), "smaller": ("smaller", "lower")}

SUM = (
    "Add {a} to {b}.",
    "What is {a} plus {b}?",
    "Give the sum of {a} and {b}.",
    "What do you get when {a} is added to {b}?",
    "Add {pair}.",
    "What is the sum of {pair}?",
    "How much do {pair} make together?",
)
# Always the spoken digit from the written one, whichever comes first in the sentence.
MINUS = (
    "What is {a} minus {b}?",
    "Start with {a} and take {b} away.",
    "Take {b} from {a}.",
    "What is left when {b} is taken from {a}?",
)
APART = (
    "How far apart are {a} and {b}?",
    "Give the distance between {a} and {b}.",
    "How many steps lie between {a} and {b}?",
    "How far apart are {pair}?",
)
COMPARE = (
    "Which is {more}, {a} or {b}?",
    "Give the {more} of {a} and {b}.",
    "Of {a} and {b}, which is the {more}?",
    "Between {a} and {b}, pick the {more}.",
    "Which of {pair} is {more}?",
    "Compare {pair} and pick the {more}.",
)
TEMPLATES = dict(zip(OPERATIONS, (SUM, MINUS, APART, COMPARE, COMPARE), strict=True))
SENTENCES_PER_TEMPLATE = 24

RATE_HZ = 16_000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = ("en-GB", "en-US")
SPEEDS = (0.8, 0.9, 1.0, 1.1, 1.2, 1.3)
PITCHES = (0.75, 0.85, 0.95, 1.05, 1.2, 1.35)
NOISES = {"train": 2, "validation": 2, "test": 3}  # recordings of one utterance, each with its own noise
SNR_DB = (10.0, 25.0)
SIZE_PX = 32


class Drawing(NamedTuple):
    """One PNG file: a digit, and which of scikit-learn's handwritten digits it is."""

    digit: int
    index: int

    @property
    def path(self) -> str:
        return f"images/{WORDS[self.digit]}_{self.index:04}.png"


class Recording(NamedTuple):
    """One WAV file: a digit, said by a voice at a speed and a pitch, with one draw of noise."""

    voice: str
    speed: float
    pitch: float
    digit: int
    noise: int

    @property
    def setting(self) -> str:
        return f"{self.voice} speed {self.speed} pitch {self.pitch}"

    @property
    def path(self) -> str:
        return f"voices/{self.setting.replace(' ', '_')}_{WORDS[self.digit]}_{self.noise}.wav"


def make_data(folder: Path, *, rows: Mapping[str, int], seed: int = 0) -> None:
    """Write images, voices and train.csv, validation.csv, test.csv into ``folder``, which is made if need be.

    Models get the columns image, audio (paths from ``folder``) and text, and answer with result (a class) and value
    (the same, a number). The others are for reports. No drawing, voice setting or sentence is in two splits.
    ``rows`` says how many samples each split gets, such as ``{"train": 4000, "validation": 500, "test": 1000}``.
    The same seed gives the same tables and images, and the same voices but for the speaker's own faint noise.
    """
    if set(rows) != set(SPLITS):
        raise ValueError(f"rows has the keys {sorted(rows)}. Expected {sorted(SPLITS)}. Give each split its number.")
    speaker = _make_speaker()
    rng = np.random.default_rng(seed)
    sentences, drawings = split_sentences(rng), split_handwriting(seed)
    for name in ("images", "voices"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    recordings = set()
    for split in SPLITS:
        endless = _samples(sentences[split], drawings[split], _recordings(split, rows[split], rng), rng)
        samples = list(islice(endless, rows[split]))
        _write_csv(folder / f"{split}.csv", samples)
        _write_images(folder, {drawing for drawing, _, _, _ in samples})
        recordings |= {recording for _, recording, _, _ in samples}
    _write_voices(folder, sorted(recordings), speaker, rng)


def sentences_of(operation: str, template: str) -> list[str]:
    """All sentences that ask for ``operation`` in this form."""
    roles = {"written minus spoken": [(WRITTEN, SPOKEN)]}
    forms = {
        template.format(a=a, b=b, pair=pair, more=more)
        for left, right in roles.get(operation, [(WRITTEN, SPOKEN), (SPOKEN, WRITTEN)])
        for a, b, pair, more in product(left, right, PAIRS, COMPARATIVES.get(operation, [""]))
    }
    return sorted(form.replace("NOUN", noun, 1).replace("NOUN", "one") for form in forms for noun in NOUNS)


def split_sentences(rng: np.random.Generator) -> dict[str, dict[str, list[str]]]:
    """Split -> operation -> sentences: 70, 15 and 15 % of every template, so that the test asks in known words."""
    splits = {split: {operation: [] for operation in OPERATIONS} for split in SPLITS}
    for operation, templates in TEMPLATES.items():
        for template in templates:
            some = rng.permutation(sentences_of(operation, template))[:SENTENCES_PER_TEMPLATE].tolist()
            held_out = round(0.15 * len(some))
            splits["test"][operation] += some[:held_out]
            splits["validation"][operation] += some[held_out : 2 * held_out]
            splits["train"][operation] += some[2 * held_out :]
    words = {split: set(" ".join(chain(*some.values())).replace(",", "").split()) for split, some in splits.items()}
    assert words["validation"] | words["test"] <= words["train"]
    return splits


def split_handwriting(seed: int) -> dict[str, list[Drawing]]:
    """Split -> drawings, with the same share of each digit in every split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits().target.tolist()
    train, other = train_test_split(range(len(digits)), train_size=1300, stratify=digits, random_state=seed)
    validation, test = train_test_split(other, train_size=200, stratify=[digits[i] for i in other], random_state=seed)
    parts = [[Drawing(digits[i], i) for i in some] for some in (train, validation, test)]
    return dict(zip(SPLITS, parts, strict=True))


def voice_settings(split: str) -> list[tuple[str, float, float]]:
    """The voices of a split. Those held out lie inside the grid of speed and pitch, among others in training."""
    chosen = []
    for (i, speed), (j, pitch) in product(enumerate(SPEEDS), enumerate(PITCHES)):
        held_out = {0: "test", 2: "validation"} if 0 < i < len(SPEEDS) - 1 and 0 < j < len(PITCHES) - 1 else {}
        if held_out.get((i + j) % 4, "train") == split:
            chosen += [(voice, speed, pitch) for voice in VOICES]
    return chosen


def _recordings(split: str, rows: int, rng: np.random.Generator) -> list[Recording]:
    """Every voice with every digit, or fewer for few rows: each is to be heard twice."""
    noises = list(product(voice_settings(split), range(NOISES[split])))
    chosen = [noises[i] for i in rng.permutation(len(noises))[: max(1, rows // 20)]]
    return [Recording(*setting, digit, noise) for setting, noise in chosen for digit in range(10)]


def _samples(sentences, drawings, recordings, rng) -> Iterator[tuple[Drawing, Recording, str, str]]:
    """Without end: drawing, recording, operation, sentence. Each operation meets each digit pair equally often."""
    written = {digit: _deal([x for x in drawings if x.digit == digit], rng) for digit in range(10)}
    spoken = {digit: _deal([x for x in recordings if x.digit == digit], rng) for digit in range(10)}
    asked = {operation: _deal(some, rng) for operation, some in sentences.items()}
    for operation, left, right in _deal(list(product(OPERATIONS, range(10), range(10))), rng):
        yield next(written[left]), next(spoken[right]), operation, next(asked[operation])


def _deal(items: Sequence, rng: np.random.Generator) -> Iterator:
    """Without end: all items in random order, then all again in another."""
    while True:
        for i in rng.permutation(len(items)):
            yield items[i]


def _write_csv(path: Path, samples: Iterable[tuple[Drawing, Recording, str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "audio", "text", "result", "value", "written", "spoken", "operation", "voice"))
        for drawing, recording, operation, text in samples:
            result = OPERATIONS[operation](drawing.digit, recording.digit)
            report = (drawing.digit, recording.digit, operation, recording.setting)
            writer.writerow((drawing.path, recording.path, text, result, result, *report))


def _write_images(folder: Path, drawings: Iterable[Drawing]) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    pictures = np.pad(load_digits().images * (255 / 16), ((0, 0), (1, 1), (1, 1))).round().astype(np.uint8)
    for drawing in drawings:
        picture = Image.fromarray(pictures[drawing.index]).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
        picture.save(folder / drawing.path)


def _make_speaker():
    try:
        from py_nanotts import NanoTTS
    except ImportError as error:
        raise ImportError("py_nanotts, which speaks the digits, is missing. Run pip install 'mmfuse[demo]'.") from error
    return NanoTTS()


def _write_voices(folder: Path, recordings: Iterable[Recording], speaker, rng: np.random.Generator) -> None:
    import soundfile

    for (voice, speed, pitch, digit), same in groupby(recordings, lambda recording: recording[:4]):
        spoken = speaker.speak(WORDS[digit], voice=voice, speed=speed, pitch=pitch, volume=0.5)  # louder would clip
        signal = _trim(np.frombuffer(spoken, dtype="<i2").astype(float))
        for recording in same:
            noisy = _add_noise(signal, rng)
            soundfile.write(folder / recording.path, 0.8 * noisy / abs(noisy).max(), RATE_HZ, subtype="PCM_16")


def _trim(signal: np.ndarray) -> np.ndarray:
    """From 20 ms before it gets loud to 20 ms after."""
    window = RATE_HZ // 100
    energy = np.cumsum(np.pad(signal**2, (window // 2 + 1, window // 2)))
    loudness = np.sqrt(np.maximum(energy[window:] - energy[:-window], 0.0))
    loud = np.flatnonzero(loudness > 0.02 * loudness.max())
    return signal[max(0, loud[0] - 2 * window) : loud[-1] + 2 * window]


def _add_noise(signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add white or pink noise, 10 to 25 dB below the signal."""
    spectrum = np.fft.rfft(rng.standard_normal(2 * RATE_HZ))
    if rng.random() < 0.5:
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 40))  # pink above 20 Hz
    noise = np.fft.irfft(spectrum)[: len(signal)]
    wanted_power = np.mean(signal**2) / 10 ** (rng.uniform(*SNR_DB) / 10)
    return signal + noise * np.sqrt(wanted_power / np.mean(noise**2))
