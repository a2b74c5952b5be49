"""Looking at data before training: every fault is found once, with its line, and nothing in the data stops it."""

import json
import math
import re
import zipfile
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tiny_data import WORDS, make_model, write_rows

from mmfuse.data import DataError, inspect, read_table
from mmfuse.data.inspection import contents as contents_module
from mmfuse.data.inspection.contents import contents_of
from mmfuse.data.inspection.plan import Modality
from mmfuse.data.transforms import (
    AudioTransform,
    FeatureTransform,
    ImageTransform,
    SeriesTransform,
    TextTransform,
    VolumeTransform,
    train_tokenizer,
)
from mmfuse.tasks import Classification, MultiLabel, Regression

HOW = {
    "image": "image",
    "audio": "audio",
    "series": "series",
    "text": "text",
    "vitals": {"age": "number", "ward": "category"},
    "nothing": "image",
    "kind": "classification",
    "size": "regression",
}


def write_faults(folder):
    """A training and a test table with one of every fault; the row that has it is in the comment."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(40):
        Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
        soundfile.write(folder / f"{i}.wav", random.normal(0, 0.1, 800 + 80 * i), 8000)
        np.save(folder / f"{i}.npy", random.normal(size=(50 + i, 3)))
        files = {"image": f"{i}.jpg", "audio": f"{i}.wav", "series": f"{i}.npy", "text": f"row number {i}"}
        labels = {"kind": "ab"[i % 2], "size": str(i), "speaker": f"s{i}", "id": f"r{i}", "nothing": None}
        rows.append({**files, **labels, "age": str(i), "ward": "north"})
    (folder / "0.jpg").write_bytes((folder / "0.jpg").read_bytes()[:-300])  # truncated
    (folder / "1.wav").write_bytes(b"")
    rows[2]["image"] = "gone.jpg"
    (folder.parent / "outside.wav").write_bytes(b"x")
    rows[3]["audio"] = "../outside.wav"
    (folder / "copy.jpg").write_bytes((folder / "4.jpg").read_bytes())
    rows[5]["image"] = "copy.jpg"
    rows[6]["text"] = "<script>alert(1)</script> long " * 500
    soundfile.write(folder / "7.wav", random.normal(0, 0.1, 4410), 44100)
    series = np.load(folder / "8.npy")
    series[3, 1] = np.nan
    np.save(folder / "8.npy", series)
    rows[9]["age"] = "old"
    rows[10]["id"] = "r11"
    rows[11]["size"] = "large"
    for row in rows[12:20]:
        row["image"] = None
    rows[13].update(audio=None, text=None)
    train, test = rows[:30], rows[30:]
    test[0]["image"] = "20.jpg"
    test[1]["kind"] = "c"
    test[2].update({name: rows[21][name] for name in ("image", "audio", "series", "text", "age")})
    test[3]["speaker"] = "s22"
    test[4]["ward"] = "south"
    for name, part in (("train", train), ("test", test)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    return read_table(folder / "train.jsonl"), read_table(folder / "test.jsonl")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "data"
    folder.mkdir()
    return write_faults(folder)


def look(tables, **settings):
    train, test = tables
    return inspect(train, HOW, against={"test": test}, group="speaker", id="id", **settings)


@pytest.fixture(scope="module")
def report(tables):
    return look(tables)


def of(report, kind):
    """Table, column and lines of the findings of one kind."""
    return [(part.table, part.column, list(part.lines)) for part in report.findings if part.kind == kind]


def test_every_planted_fault_is_found_once_with_its_line(report):
    expected = {
        "unreadable": [("train.jsonl", "image", [1]), ("train.jsonl", "audio", [2])],
        "missing file": [("train.jsonl", "image", [3])],
        "refused file": [("train.jsonl", "audio", [4])],
        "same content": [("train.jsonl", "image", [6])],
        "long text": [("train.jsonl", "text", [7])],
        "odd rate_hz": [("train.jsonl", "audio", [8])],
        "gaps": [("train.jsonl", "series", [9])],
        "no number": [("train.jsonl", "age", [10]), ("train.jsonl", "size", [12])],
        "repeated id": [("train.jsonl", "id", [12])],
        "empty modality": [("train.jsonl", "nothing", [])],
        "partial leakage": [("test.jsonl", "image", [1])],
        "unknown class": [("test.jsonl", "kind", [2])],
        "leakage": [("test.jsonl", "", [3])],
        "shared group": [("test.jsonl", "speaker", [4])],
        "unseen category": [("test.jsonl", "ward", [5])],
    }

    found = {kind: sorted(of(report, kind)) for kind in {part.kind for part in report.findings}}

    assert found == {kind: sorted(places) for kind, places in expected.items()}
    assert not report.ok
    assert not report
    assert {part.kind for part in report.warnings} == {
        "same content",
        "long text",
        "odd rate_hz",
        "partial leakage",
        "unseen category",
    }
    assert len(report.problems) + len(report.warnings) == len(report.findings)


def test_the_text_says_what_is_wrong_first_and_names_cell_cause_and_mend(report):
    text = str(report)

    assert text.startswith(
        "train.jsonl 30 rows, test.jsonl 10 rows: 12 problems, 5 warnings.\n\nProblems\n  1. test.jsonl"
    )
    assert "line 1 0.jpg: The JPEG breaks off or is damaged. Expected a whole file." in text
    assert "line 2 1.wav: The sound file is empty (0 bytes)." in text
    assert "line 3 gone.jpg: no such file" in text
    assert "line 4 ../outside.wav: '../outside.wav' leads out of" in text
    assert "rows are in train.jsonl too, the same in every modality" in text
    assert "line 3 = line 22 of train.jsonl" in text
    assert "classes that training does not have: 'c'" in text
    assert "reading={'gaps': 'keep'}" in text
    assert len(text.splitlines()) < 55
    assert max(map(len, text.splitlines())) < 420


def test_patterns_are_those_of_a_slow_loop(tables, report):
    columns = {
        "image": ["image"],
        "audio": ["audio"],
        "series": ["series"],
        "text": ["text"],
        "vitals": ["age", "ward"],
    }
    expected = Counter(
        tuple(name for name, of in columns.items() if any(row[column] is not None for column in of))
        for row in tables[0].rows
    )

    assert dict(report.table.patterns) == dict(expected)
    assert sum(report.table.patterns.values()) == 30


def test_sizes_and_labels_are_those_of_the_data(report):
    modalities = {part.name: part for part in report.table.modalities}
    labels = {part.name: part for part in report.table.labels}

    assert modalities["image"].present == 22
    assert modalities["image"].spreads["width"].quantiles["max"] == 32
    assert modalities["image"].counts["mode"] == {"RGB": 20}
    assert modalities["audio"].counts["rate_hz"] == {"8000": 26, "44100": 1}
    assert modalities["audio"].spreads["seconds"].quantiles["max"] == pytest.approx((800 + 80 * 29) / 8000)
    assert modalities["series"].spreads["steps"].quantiles["50%"] == pytest.approx(64.5)
    assert modalities["text"].spreads["words"].quantiles["max"] == 1000
    assert labels["kind"].classes == {"a": 15, "b": 15}
    assert labels["size"].known == 30
    assert labels["size"].spread.count == 29
    assert report.against["test"].labels[0].classes == {"a": 5, "b": 4, "c": 1}


def test_suggestions_fit_the_data_and_have_a_reason(report):
    values = {(part.column, part.setting): part.value for part in report.suggestions}

    assert values[("image", "size")] == 24
    assert values[("audio", "rate_hz")] == 8000
    assert values[("series", "channels")] == 3
    assert values[("series", "gaps")] == "keep"
    assert values[("text", "max_length")] % 8 == 0
    assert all(part.reason for part in report.suggestions)


def test_what_is_suggested_builds_transforms_that_read_the_data(tables, report):
    train = tables[0]
    how = {
        "image": ImageTransform(**report.settings("image")),
        "audio": AudioTransform(**report.settings("audio")),
        "series": SeriesTransform(**report.settings("series")),
        "text": TextTransform(train_tokenizer(["row number"]), **report.settings("text")),
    }

    again = inspect(train, how)

    assert {part.kind for part in again.problems} == {"missing file", "refused file", "unreadable"}
    assert of(again, "unreadable") == of(report, "unreadable")
    assert report.settings("nothing") == {}


def test_json_is_strict_and_comes_back_equal(report, tmp_path):
    report.to_json(tmp_path / "report.json")

    text = (tmp_path / "report.json").read_text()
    again = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    assert again == report.to_dict()
    assert again["ok"] is False
    assert again["table"]["patterns"][0] == {"modalities": ["image", "audio", "series", "text", "vitals"], "rows": 22}
    assert again["shared"][0]["whole"] == 1
    assert again["shared"][0]["partly"]["image"] == 2


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.open = Counter(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_loads_and_runs_nothing_and_shows_pictures(report, tmp_path):
    report.to_html(tmp_path / "page.html")

    page = (tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(page)

    assert not tags.open
    assert "http:" not in page
    assert "https:" not in page
    assert not {"script", "iframe", "link", "object", "form", "a"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert all(value.startswith("data:image/png;base64,") for name, value in tags.attributes if name == "src")
    assert tags.tags["img"] == 12
    assert tags.tags["polyline"] > 10
    assert tags.tags["rect"] > 20
    assert "prefers-color-scheme: dark" in page


def test_text_of_the_data_is_escaped_in_the_page(tmp_path):
    bad = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    table = read_table({"note": [bad, "\ud800 half a pair", "c"], f"{bad}": ["x", "y", bad]})

    report = inspect(table, {"note": "text", bad: "classification"}, against={bad: table}, group=bad)
    report.to_html(tmp_path / "page.html")

    page = (tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert "&lt;script&gt;alert(1)" in page
    assert not {"script", "img"} & set(tags.tags)
    assert "\x1b" not in str(inspect(read_table({"kind": ["\x1b[31mred", "b"]}), {"kind": "classification"}))
    json.dumps(report.to_dict(), allow_nan=False).encode()


def test_the_same_data_gives_the_same_report_on_any_number_of_threads(tables, report):
    assert look(tables, workers=3).to_dict() == report.to_dict() == look(tables).to_dict()


def test_a_sample_is_drawn_by_its_seed_and_said_to_be_one(tables):
    first, again, other = (look(tables, sample=5, seed=seed) for seed in (0, 0, 1))

    assert first.to_dict() == again.to_dict() != other.to_dict()
    assert "a sample of 5 of 22 rows was opened" in str(first)
    assert of(first, "missing file") == [("train.jsonl", "image", [3])]  # files are looked for in all rows
    assert of(first, "leakage") == [("test.jsonl", "", [3])]
    assert first.table.modalities[0].spreads["width"].count <= 5


def test_a_model_says_how_values_are_read_and_what_it_would_refuse_or_cut(tmp_path):
    path = write_rows(tmp_path)
    soundfile.write(tmp_path / "1.wav", np.zeros(40), 16000)  # shorter than the encoder's window
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.replace("kind2,", "kind9,") if i == 3 else line for i, line in enumerate(lines)))

    report = inspect(read_table(path), make_model())

    [short] = [part for part in report.problems if part.kind == "unreadable"]
    assert list(short.lines) == [3]
    assert "Expected at least" in short.details[0]
    assert of(report, "unknown class") == [("train.csv", "kind", [4])]
    assert report.table.modalities[2].spreads["tokens"].quantiles["max"] == 4
    assert ("text", "max_length", 8) in [(part.column, part.setting, part.value) for part in report.suggestions]


def test_good_data_have_no_problem(tmp_path):
    report = inspect(read_table(write_rows(tmp_path)), make_model())

    assert report.ok
    assert report
    assert report.problems == []
    assert "no problems" in str(report)
    report.to_html(tmp_path / "page.html")
    assert "No problem was found." in (tmp_path / "page.html").read_text()


def test_tokens_that_are_cut_off_are_counted():
    table = read_table({"text": ["red apple"] * 9 + ["red apple green leaf blue water"]})
    transform = TextTransform(train_tokenizer(WORDS, vocab_size=60), 5)

    report = inspect(table, {"text": transform})

    [cut] = [part for part in report.warnings if part.kind == "cut off"]
    assert list(cut.lines) == [9]
    assert "10.0% of those looked at" in cut.text
    assert report.table.modalities[0].spreads["tokens"].quantiles["max"] == 8


def test_classes_of_unequal_size_and_rare_modalities_are_told():
    rows = [
        {"text": "a" if i == 7 else None, "note": f"n{i}", "kind": "rare" if i < 10 else "usual"} for i in range(200)
    ]

    report = inspect(read_table(rows), {"text": "text", "note": "text", "kind": "classification"})

    assert report.ok
    assert [part.kind for part in report.warnings] == ["rare modality", "uneven classes"]
    assert "only 1 of 200 rows have this modality (0.50%)" in report.warnings[0].text
    assert "'usual' has 190 rows, 'rare' has 10. Look at balanced_accuracy" in report.warnings[1].text


def test_labels_may_be_all_one_class_unknown_or_several():
    rows = [{"one": "x", "none": None, "tags": "a|b" if i else "|", "number": i} for i in range(4)]
    how = {"one": "classification", "none": "regression", "tags": "multilabel", "number": Regression(4)}

    report = inspect(read_table(rows), how)

    assert [part.kind for part in report.problems] == ["no label", "one class"]
    assert [dict(label.classes) for label in report.table.labels[:3]] == [{"x": 4}, {}, {"a": 3, "b": 3}]
    assert report.table.labels[3].spread.mean == 1.5


def test_labels_may_be_an_array_of_yes_and_no():
    labels = torch.tensor([[1, 0], [1, 1], [1, 0]])

    report = inspect(read_table({"tags": labels}), {"tags": MultiLabel(4, ["sun", "rain"])})

    assert report.table.labels[0].classes == {"sun": 3, "rain": 1}


def test_equal_rows_are_told_and_those_with_another_label_apart():
    rows = [("x", "1", "a"), ("x", "1", "b"), ("y", "2", "a"), ("y", "2", "a"), ("y", "3", "a"), (None, None, "a")] * 1
    table = read_table([dict(zip(("text", "age", "kind"), row, strict=True)) for row in rows] + [{"kind": "b"}])

    report = inspect(table, {"text": "text", "age": "number", "kind": "classification"})

    assert of(report, "contradiction") == [(table.name, "", [1])]
    assert of(report, "repeated row") == [(table.name, "", [3])]
    assert not of(report, "same content")  # of text and numbers that is nothing out of the ordinary


def test_what_occurs_twice_is_what_a_slow_loop_finds():
    random = np.random.default_rng(0)
    cells = [[None, "x", "y", "z"][i] for i in random.integers(0, 4, 300)]
    rows = [dict(zip("abcd", cells[i : i + 4], strict=True)) for i in range(0, 300, 4)]
    train, test = read_table(rows[:50]), read_table(rows[50:])
    there = [tuple(row.values()) for row in rows if any(row.values())]
    seen, later = there[: sum(any(row.values()) for row in rows[:50])], there[sum(any(r.values()) for r in rows[:50]) :]

    report = inspect(train, dict.fromkeys("abcd", "text"), against={"test": test})

    [repeated] = [part for part in report.findings if part.kind == "repeated row" and part.table == train.name]
    [shared] = report.shared
    assert repeated.count == len(seen) - len(set(seen))
    assert shared.whole == sum(row in set(seen) for row in later)
    known = {name: {row[i] for row in seen} - {None} for i, name in enumerate("abcd")}
    assert shared.partly == {name: sum(row[i] in known[name] for row in later) for i, name in enumerate("abcd")}


def test_ids_are_compared_in_a_table_without_modalities():
    table = read_table({"kind": ["a", "b", "a"], "id": ["x", "y", "x"]})

    report = inspect(table, {"kind": "classification"}, id="id")

    assert [(part.kind, list(part.lines)) for part in report.problems] == [("repeated id", [2])]
    assert "kind" in str(report)


def test_a_task_whose_labels_the_table_lacks_is_told(tmp_path):
    table = read_table(write_rows(tmp_path), columns={"size": None})

    report = inspect(table, make_model())

    assert [(part.kind, part.column) for part in report.problems] == [("no label", "size")]


def test_absent_cells_are_never_the_same_as_others():
    train = read_table([{"text": None, "image": None, "kind": "a"}, {"text": "one", "image": None, "kind": "b"}] * 2)
    test = read_table([{"text": None, "image": None, "kind": "a"}, {"text": "two", "image": None, "kind": "b"}])

    report = inspect(train.take([0, 1]), {"text": "text", "kind": "classification"}, against={"test": test})

    assert {part.kind for part in report.findings} == {"no modality"}
    assert report.shared[0].whole == 0


def test_a_combination_that_training_never_has_is_told():
    train = read_table([{"a": "x", "b": "y"}, {"a": "z", "b": "w"}])
    test = read_table([{"a": "u", "b": None}, {"a": "v", "b": "t"}])

    report = inspect(train, {"a": "text", "b": "text"}, against={"test": test})

    [advice] = [part for part in report.suggestions if part.column == "modalities"]
    assert str(advice).startswith("modalities: ModalityDropout in training (test (")
    assert "has rows with a only" in advice.reason


def test_a_modality_that_only_the_test_lacks_is_no_problem():
    train = read_table([{"a": "x", "b": "y"}, {"a": "z", "b": "w"}])
    test = read_table([{"a": "u", "b": None}])

    report = inspect(train, {"a": "text", "b": "text"}, against={"test": test})

    assert report.ok
    assert [part.kind for part in report.warnings] == ["empty modality"]


def test_arrays_bytes_and_lists_are_looked_at_like_files(tmp_path):
    random = np.random.default_rng(0)
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", random.normal(size=(6, 2)))
    data = [(tmp_path / f"{i}.npy").read_bytes() for i in range(4)]
    columns = {
        "image": random.integers(0, 255, (4, 3, 20, 30), dtype=np.uint8),
        "feature": [random.normal(size=(5 + i, 7)) for i in range(4)],
        "series": [data[0], data[1], data[2], data[2]],
    }
    train = read_table(columns)
    rows = [{"image": None, "feature": None, "series": "3.npy"}, {"image": None, "feature": None, "series": "1.npy"}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    test = read_table(tmp_path / "test.jsonl")

    report = inspect(train, {name: name for name in columns}, against={"test": test})

    image, feature, series = report.table.modalities
    assert image.spreads["width"].quantiles["min"] == 30
    assert feature.counts["width"] == {"7": 4}
    assert feature.spreads["steps"].quantiles["max"] == 8
    assert series.counts["channels"] == {"2": 4}
    assert of(report, "same content") == [(train.name, "series", [3])]
    assert of(report, "partial leakage") == [("test.jsonl", "series", [2])]  # the bytes of a file are its content
    assert len(report.table.modalities[0].previews) == 4


def test_transforms_may_be_given_before_there_is_a_model(tmp_path):
    np.savez(tmp_path / "a.npz", times=np.array([0.0, 1, 2, 4]), values=np.zeros((4, 2)))
    np.savez(tmp_path / "b.npz", times=np.array([0.0, 1, 1, 4]), values=np.zeros((4, 2)))
    np.save(tmp_path / "v.npy", np.arange(4 * 5 * 6.0).reshape(4, 5, 6))
    np.save(tmp_path / "f.npy", np.array([1.0, np.nan]))
    (tmp_path / "t.csv").write_text("series,volume,feature,kind\na.npz,v.npy,f.npy,x\nb.npz,,,y\n")
    how = {
        "series": SeriesTransform(2, times="times"),
        "volume": VolumeTransform(8, slices=None),
        "feature": FeatureTransform(2),
        "kind": Classification(4, ["x", "y"]),
    }

    report = inspect(read_table(tmp_path / "t.csv"), how)

    series, volume, _ = report.table.modalities
    assert series.spreads["rate_hz"].quantiles["max"] == 0.75
    assert series.spreads["longest gap in s"].quantiles["max"] == 2
    assert len(volume.counts["shape"]) == 1
    assert sorted(of(report, "unreadable")) == [("t.csv", "feature", [2]), ("t.csv", "series", [3])]


def write_series(folder, **files):
    for name, lines in files.items():
        (folder / f"{name}.csv").write_text("\n".join(lines))
    (folder / "t.csv").write_text("\n".join(["series", *[f"{name}.csv" for name in files]]))
    return read_table(folder / "t.csv")


def test_times_of_series_are_found_by_their_name_or_content_and_must_grow(tmp_path):
    grown = [f"{t},{t % 3},{t % 2}" for t in range(6)]
    table = write_series(
        tmp_path,
        a=["time,x,z", *grown],
        b=["time,x,z", *grown],
        c=["time,x,z", "0,1,2", "0,1,2"],
        d=["x,z,time", "1,2,0", "1,2,3"],
        e=["time,x,z", "5,1,2", "4,1,2"],
        f=["time,x,w", "4,1,2", "5,1,2"],
        g=["time,x,z", "2024-01-01,1,2", "2024-01-02,1,2"],
    )

    report = inspect(table, {"series": "series"})

    assert report.settings("series") == {"channels": 2, "times": "time", "rate_hz": 1.0}
    assert "of an encoder: reading={'times': 'time'}" in str(report)
    assert of(report, "unreadable") == [("t.csv", "series", [4, 6])]
    assert of(report, "odd columns") == [("t.csv", "series", [7])]
    assert "most have columns x, z, others w, x. Channels are found by their names" in str(report)


def test_a_first_column_that_only_grows_may_be_times(tmp_path):
    table = write_series(tmp_path, a=[f"{t},{t % 3}" for t in range(6)], b=[f"{t / 2},{t % 3}" for t in range(6)])

    report = inspect(table, {"series": "series"})

    assert report.settings("series") == {"channels": 2}
    assert "series: times=0, if the first column holds them (the first column grows" in str(report)


def test_a_video_is_measured_by_its_packets(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            picture = np.full((48, 64, 3), 10 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    (tmp_path / "t.csv").write_text("video\na.mp4\nb.mp4\n")

    report = inspect(read_table(tmp_path / "t.csv"), {"video": "video"})

    spreads = report.table.modalities[0].spreads
    sizes = {name: spread.quantiles["50%"] for name, spread in spreads.items()}
    assert sizes == {"frames": 20, "width": 64, "height": 48, "seconds": pytest.approx(2), "fps": pytest.approx(10)}
    assert of(report, "unreadable") == [("t.csv", "video", [3])]
    assert "png" in report.table.modalities[0].previews[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_inside_of_sounds_and_videos_is_found_by_decoding_them(tmp_path, workers):
    av = pytest.importorskip("av")
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "good.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(noise, i, 0), format="rgb24")))
        container.mux(stream.encode(None))
    soundfile.write(tmp_path / "good.flac", np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000)
    for name in ("good.mp4", "good.flac"):
        data = bytearray((tmp_path / name).read_bytes())
        data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
        (tmp_path / name.replace("good", "bad")).write_bytes(data)
    sound = (np.zeros(100), 16_000)
    table = read_table(
        [
            {"clip": str(tmp_path / "good.mp4"), "sound": str(tmp_path / "good.flac")},
            {"clip": str(tmp_path / "bad.mp4"), "sound": {"bytes": (tmp_path / "bad.flac").read_bytes()}},
            {"clip": np.zeros((3, 3, 8, 8), np.uint8), "sound": sound},
        ],
        outside=True,
    )
    how = {"clip": "video", "sound": "audio"}

    headers, report = (inspect(table, how, decode=decode, workers=workers) for decode in (False, True))

    assert of(headers, "unreadable") == []
    assert of(report, "unreadable") == [("the list", "clip", [1]), ("the list", "sound", [1])]
    details = [detail for finding in report.findings for detail in finding.details]
    assert any("The video is damaged after" in detail for detail in details)
    assert any("The sound is damaged after" in detail and "Copy or download it again" in detail for detail in details)


def test_a_dataset_that_raises_is_reported_and_does_not_stop():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, row):
            if row == 2:
                raise OSError("the disk is on fire")
            return {"series": torch.arange(10.0) + row, "age": row, "kind": "ab"[row % 2], "id": row}

    how = {"series": "series", "age": "number", "kind": "classification"}

    report = inspect(read_table(Broken()), how, id="id", group="id", against={"again": read_table(Broken())})

    assert [(part.column, list(part.lines)) for part in report.problems if part.table == "the Broken"] == [
        ("series", [2]),
        ("age", [2]),
        ("kind", [2]),
    ]
    assert all("the disk is on fire" in part.details[0] for part in report.problems[2:])
    assert report.shared[0].whole == 3
    assert report.table.labels[0].known == 3


def test_columns_of_the_hugging_face_library_and_of_parquet(tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.new("RGB", (20 + i, 10), (i, 0, 0)) for i in (0, 1, 1)]
    features = datasets.Features({"image": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    split = datasets.Dataset.from_dict({"image": pictures, "kind": [0, 1, 1]}, features=features)
    split.to_parquet(str(tmp_path / "t.parquet"))

    for table in (read_table(split), read_table(tmp_path / "t.parquet")):
        report = inspect(table, {"image": "image", "kind": "classification"})

        assert report.table.modalities[0].spreads["width"].quantiles["max"] == 21
        assert len(of(report, "same content")) == 1
        assert len(report.table.labels[0].classes) == 2


def test_files_of_equal_size_that_differ_late_are_not_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(contents_module, "_HEAD", 8)
    monkeypatch.setattr(contents_module, "_BLOCK", 8)
    for name, data in {"a": b"x" * 50, "b": b"x" * 49 + b"y", "c": b"x" * 50, "d": b"x"}.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "t.csv").write_text("image,other\na,1\nb,1\nc,1\nd,1\na,1\n")

    [found] = contents_of([read_table(tmp_path / "t.csv")], Modality("image", "image", ("image",)), seed=0)

    a, b, c, d, again = found.numbers.tolist()
    assert a == c == again
    assert len({a, b, d}) == 3
    assert found.names.tolist() == [0, 1, 2, 3, 0]


def test_only_so_many_files_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(contents_module, "MOST_FILES", 30)
    (tmp_path / "t.csv").write_text("image\n" + "\n".join(f"{i}.png" for i in range(100)))

    report = inspect(read_table(tmp_path / "t.csv"), {"image": "image"})

    [missing] = report.problems
    assert missing.count == 30
    assert len(missing.lines) == 20
    assert "30 rows were looked for and compared" in str(report)


def test_bombs_are_refused_by_their_headers(tmp_path):
    Image.new("1", (8000, 8000)).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy_header((2**40,)))
    (tmp_path / "a.npy").write_bytes(_npy_header((2**40,)))
    (tmp_path / "t.csv").write_text("image,one,two\na.png,a.npz,a.npy\n")

    report = inspect(read_table(tmp_path / "t.csv"), {"image": "image", "one": "series", "two": "feature"})

    assert [part.column for part in report.problems] == ["image", "one", "two"]
    assert "64000000 pixels. Expected at most" in report.problems[0].details[0]
    assert not any(part.previews for part in report.table.modalities)


def _npy_header(shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def test_numbers_with_nothing_finite_make_no_spread():
    report = inspect(read_table({"age": ["inf", "nan", "1e400"]}), {"age": "number"})

    assert report.table.modalities[0].spreads == {}
    assert of(report, "no number") == [(report.table.name, "age", [0, 1, 2])]


def test_the_largest_numbers_have_a_finite_spread():
    report = inspect(read_table({"age": ["1e308", "-1e308", "1.7e308"]}), {"age": "number"})

    spread = report.table.modalities[0].spreads["age"]
    assert all(map(math.isfinite, [spread.mean, *spread.quantiles.values(), *spread.edges]))
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.plain
def test_mistakes_of_the_caller_are_explained(tables):
    train, _ = tables
    with pytest.raises(TypeError, match="inspect got a int. Expected a model, or what stands in each column. Give"):
        inspect(train, 3)
    with pytest.raises(ValueError, match="inspect got 'imag' for 'image'. Expected one of .* Did you mean 'image'?"):
        inspect(train, {"image": "imag"})
    with pytest.raises(DataError, match="has no column 'imagee'.* Did you mean 'image'?"):
        inspect(train, {"imagee": "image"})
    with pytest.raises(DataError, match="test has no column 'image'|has no column 'image'"):
        inspect(train, {"image": "image"}, against={"test": read_table({"text": ["a"]})})
    with pytest.raises(DataError, match=re.escape("has no column 'speakers'")):
        inspect(train, {"image": "image"}, group="speakers")
    with pytest.raises(ValueError, match="inspect got sample=0. Expected a number above 0"):
        inspect(train, {"image": "image"}, sample=0)


@pytest.mark.parametrize(("filled", "serious"), [(1, True), (8, False)])
def test_rows_without_any_modality_are_a_problem_when_they_are_most(filled, serious):
    rows = [
        {"a": "x" if i < filled else None, "b": None if i else "y", "mood": "no" if i % 2 else "yes"} for i in range(10)
    ]

    report = inspect(read_table(rows), {"a": "text", "b": "text", "mood": "classification"})

    (found,) = [part for part in (report.problems if serious else report.warnings) if part.kind == "no modality"]
    assert f"{10 - filled} of 10 rows have no modality at all: they teach nothing but the frequency" in str(found)
    assert found.lines == list(range(filled, 10))
