"""The data of examples/digit_arithmetic.py: nothing of the test is in training, and no modality is enough alone."""

import csv
import hashlib
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict

import digit_arithmetic_data as data
import numpy as np
import pytest
import soundfile
from digit_arithmetic_pictures import Answered, draw_confusion, draw_hidden, draw_learning_curves, draw_samples
from PIL import Image

ROWS = {"train": 1000, "validation": 500, "test": 500}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    data.make_data(folder, rows=ROWS, seed=3)
    return folder


@pytest.fixture(scope="module")
def tables(folder):
    tables = {}
    for split in data.SPLITS:
        with (folder / f"{split}.csv").open(newline="", encoding="utf-8") as file:
            tables[split] = list(csv.DictReader(file))
    return tables


def test_every_row_names_files_that_decode(folder, tables):
    assert {split: len(rows) for split, rows in tables.items()} == ROWS
    rows = [row for table in tables.values() for row in table]
    for name in {row["image"] for row in rows}:
        with Image.open(folder / name) as image:
            assert (image.size, image.mode) == ((32, 32), "L")
    for name in {row["audio"] for row in rows}:
        info = soundfile.info(folder / name)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert 0.15 < info.duration < 1.0
        assert 0.5 < np.abs(soundfile.read(folder / name)[0]).max() < 0.9  # neither silent nor clipped


@pytest.mark.parametrize("column", ["image", "audio", "voice", "text"])
def test_nothing_of_one_split_is_in_another(folder, tables, column):
    seen = {split: {row[column] for row in rows} for split, rows in tables.items()}
    if column in ("image", "audio"):
        seen = {split: {(folder / name).read_bytes() for name in names} for split, names in seen.items()}
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_all_of_scikit_learns_digits_are_dealt_once():
    splits = data.split_handwriting(seed=3)
    assert {split: len(some) for split, some in splits.items()} == {"train": 1300, "validation": 200, "test": 297}
    assert sorted(drawing.index for some in splits.values() for drawing in some) == list(range(1797))
    for some in splits.values():
        counts = Counter(drawing.digit for drawing in some)
        assert max(counts.values()) - min(counts.values()) <= 0.1 * len(some) / 5  # as even as the digits are


def test_held_out_voices_lie_inside_the_grid_of_training():
    train = data.voice_settings("train")
    for split in ("validation", "test"):
        assert len(data.voice_settings(split)) == 8
        for voice, speed, pitch in data.voice_settings(split):
            speeds = [s for v, s, p in train if (v, p) == (voice, pitch)]
            pitches = [p for v, s, p in train if (v, s) == (voice, speed)]
            assert min(speeds) < speed < max(speeds)
            assert min(pitches) < pitch < max(pitches)


def test_answers_are_right(tables):
    for row in (row for rows in tables.values() for row in rows):
        written, spoken = int(row["written"]), int(row["spoken"])
        expected = {
            "sum": written + spoken,
            "written minus spoken": written - spoken,
            "distance": abs(written - spoken),
            "larger": max(written, spoken),
            "smaller": min(written, spoken),
        }[row["operation"]]
        assert row["result"] == str(expected)
        assert float(row["value"]) == expected


def test_the_test_asks_in_words_and_forms_of_training(tables):
    words = {
        split: {word for row in rows for word in re.findall(r"\w+", row["text"])} for split, rows in tables.items()
    }
    assert words["validation"] | words["test"] <= words["train"]
    form_of = {
        (operation, sentence): template
        for operation, templates in data.TEMPLATES.items()
        for template in templates
        for sentence in data.sentences_of(operation, template)
    }
    forms = {
        split: {(row["operation"], form_of[row["operation"], row["text"]]) for row in rows}
        for split, rows in tables.items()
    }
    assert forms["validation"] == forms["test"] == forms["train"]


def test_a_sentence_asks_for_one_operation():
    splits = data.split_sentences(np.random.default_rng(3))
    asked = [sentence for splits_of in splits.values() for some in splits_of.values() for sentence in some]
    assert len(asked) == len(set(asked))
    for operation in data.OPERATIONS:
        assert sum(len(some[operation]) for some in splits.values()) >= 40


def test_operations_and_answers_are_balanced(tables):
    for split, rows in tables.items():
        assert set(Counter(row["operation"] for row in rows).values()) == {ROWS[split] // 5}
        answers = Counter(int(row["result"]) for row in rows)
        assert sorted(answers) == list(range(-9, 19))
        assert max(answers.values()) < 0.1 * len(rows)


@pytest.mark.parametrize(
    ("columns", "most"),
    [(["written"], 0.35), (["spoken"], 0.35), (["operation"], 0.35), (["written", "spoken"], 0.45)],
)
def test_one_modality_does_not_give_the_answer_away(tables, columns, most):
    answers = defaultdict(Counter)
    rows = [row for table in tables.values() for row in table]
    for row in rows:
        answers[tuple(row[column] for column in columns)][row["result"]] += 1
    best_guess = sum(max(counts.values()) for counts in answers.values()) / len(rows)
    assert best_guess < most


def test_a_seed_gives_the_same_files_but_for_the_faint_noise_of_the_speaker(tmp_path):
    code = (
        "import sys; from pathlib import Path; from digit_arithmetic_data import make_data;"
        "make_data(Path(sys.argv[1]), rows={'train': 60, 'validation': 20, 'test': 20}, seed=5)"
    )
    for name in ("first", "second"):
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, env=env)
    first, second = _hashes(tmp_path / "first"), _hashes(tmp_path / "second")
    assert first.keys() == second.keys()
    assert len(first) > 100
    for path in first:
        if path.endswith(".wav"):
            one, other = (soundfile.read(tmp_path / name / path)[0] for name in ("first", "second"))
            assert abs(len(one) - len(other)) <= 800  # the end of the clip is found by loudness
            if len(one) == len(other):
                assert np.abs(one - other).max() < 0.05
        else:
            assert first[path] == second[path]


def test_wrong_splits_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"rows has the keys \['test', 'train'\].*Give each split its number"):
        data.make_data(tmp_path, rows={"train": 10, "test": 10})


def test_a_missing_speaker_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "py_nanotts", None)
    with pytest.raises(ImportError, match=r"pip install 'mmfuse\[demo\]'"):
        data.make_data(tmp_path / "new", rows=ROWS)
    assert not (tmp_path / "new").exists()


def test_pictures_are_drawn_and_leave_nothing_open(folder, tables, tmp_path):
    some = [
        Answered(folder / row["image"], folder / row["audio"], row["text"], row["result"], "7", weights=weights)
        for row, weights in zip(tables["test"][:3], [{"image": 0.4, "audio": 0.6}, {}, {"text": 1.0}], strict=True)
    ]
    draw_samples(some, tmp_path / "samples.png")
    draw_confusion(["0", "1", "1"], ["0", "1", "0"], ["0", "1"], tmp_path / "confusion.png")
    draw_hidden({"gated": {"everything": 0.9, "text": 0.2}}, tmp_path / "hidden.png", chance=0.1)
    curves = {"gated": {"train loss": [2.0, 1.0], "validation accuracy": [0.1, 0.6]}, "sum": {"train loss": [1.5]}}
    draw_learning_curves(curves, tmp_path / "curves.png")
    for name in ("samples", "confusion", "hidden", "curves"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert 300 < image.width <= 1600
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def _hashes(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
