"""Sources of tables beside CSV: what comes out of each, how it is held, and what is refused."""

import builtins
import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mmfuse.data import DataError, read_table
from mmfuse.data.tables.sources import parquet, text_lines


def write_json(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_json_keeps_lists_of_numbers_as_numbers_and_labels_as_text(tmp_path):
    path = write_json(
        tmp_path / "t.jsonl",
        {"x": [1, 2.5, None], "label": 7, "tags": ["a", "b"], "deep": [[1, 2], [3, 4]], "truth": True},
        "",
        {"x": [], "label": "007", "späte": "ü"},
    )

    table = read_table(path)

    assert table.columns == ("x", "label", "tags", "deep", "truth", "späte")
    assert table.column("x") == [[1, 2.5, None], []]
    assert table.column("label") == ["7", "007"]
    assert table.column("deep") == [[[1, 2], [3, 4]], None]
    assert table.column("truth") == ["True", None]
    assert table.column("späte") == [None, "ü"]
    assert table.classes("tags") == ["a", "b"]
    assert table.classes("x") == ["1", "2.5", "None"]
    assert table.lines == (1, 3)


def test_decimals_of_json_are_the_labels_that_were_written(tmp_path):
    path = write_json(
        tmp_path / "t.jsonl", *(f'{{"dose": {text}}}' for text in ("0.10", "1e2", "-0.0", "0.1", "[0.10]"))
    )

    table = read_table(path)

    assert table.column("dose") == ["0.10", "1e2", "-0.0", "0.1", [0.1]]
    assert table.take(range(4)).classes("dose") == ["-0.0", "0.1", "0.10", "1e2"]
    assert table.take(range(4)).statistics("dose")["mean"] == pytest.approx(25.05)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"x": NaN}',
            "t.jsonl line 2 is not JSON: NaN is no JSON; write null for a value that is not known. Expected",
        ),
        ('{"x": [1, -Infinity]}', "line 2 is not JSON: -Infinity is no JSON"),
        ('{"x": 1e999}', "line 2 is not JSON: 1e999 is too large a number"),
        ('{"x": 1, "x": 2}', "line 2 is not JSON: the name 'x' stands twice. Expected one object a line"),
        ('{"x": {"y": 1, "y": 2}}', "line 2 is not JSON: the name 'y' stands twice"),
        ('{"x": 1', "line 2 is not JSON"),
        ('{"x": 1} {"x": 2}', "line 2 is not JSON: Extra data"),
        ("[" * 100_000, "line 2 is not JSON: .*recursion"),
        ("null", "line 2 is a NoneType. Expected an object with named cells"),
        ('{"x": "a\0b"}', "line 2 holds a NUL character. Expected text. Is the file damaged"),
    ],
)
def test_a_broken_line_of_json_is_named(tmp_path, line, message):
    path = write_json(tmp_path / "t.jsonl", {"x": 0}, line)

    with pytest.raises(DataError, match=message) as caught:
        read_table(path)

    assert len(str(caught.value)) < 400


@pytest.mark.plain
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.csv.gz"])
def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, name, monkeypatch):
    monkeypatch.setattr(text_lines, "LONGEST_LINE", 1000)
    data = b"text\n" * (".csv" in name) + b"x" * 2000
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)

    with pytest.raises(
        DataError, match="line . is longer than 1000 letters. Expected a line for each sample. Put long"
    ):
        read_table(tmp_path / name)


def test_gzip_files_are_read_like_others(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\r\n1,\r\n"))
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1, "b": null}\n'))

    assert read_table(tmp_path / "t.csv.gz").rows == read_table(tmp_path / "t.jsonl.gz").rows == [{"a": "1", "b": None}]


@pytest.mark.plain
def test_damaged_gzip_files_and_bombs_are_refused(tmp_path, monkeypatch):
    whole = gzip.compress(b"a\n" + b"word\n" * 100_000)
    damaged = whole[:-20] + whole[-4:]
    for name, data in {
        "cut.csv.gz": whole[:-20],
        "damaged.csv.gz": damaged,
        "plain.csv.gz": b"a\n1\n",
        "bomb.csv.gz": whole,
    }.items():
        (tmp_path / name).write_bytes(data)
    assert len(read_table(tmp_path / "bomb.csv.gz")) == 100_000  # below the size that is always fine
    monkeypatch.setattr(text_lines, "SMALL", 1000)

    with pytest.raises(
        DataError, match="bomb.csv.gz holds more than 100 times its size, or is cut off. Expected a whole"
    ):
        read_table(tmp_path / "bomb.csv.gz")
    monkeypatch.setattr(text_lines, "MOST_EXPANSION", 10_000)
    with pytest.raises(
        DataError, match="cut.csv.gz holds more than .* times its size, or is cut off. .* Load it again"
    ):
        read_table(tmp_path / "cut.csv.gz")
    for name in ("damaged.csv.gz", "plain.csv.gz"):
        with pytest.raises(DataError, match=f"{name} is not a whole gzip file: .* Expected one. Pack it again"):
            read_table(tmp_path / name)


PARQUET = {
    "path": pa.array(["a.png", None, " ", "ü.png"]),
    "label": pa.array(["x", "y", None, "x"]).dictionary_encode(),
    "count": pa.array([1, None, 3, 4], pa.int32()),
    "share": pa.array([0.5, float("nan"), None, 2.0]),
    "truth": pa.array([True, False, None, True]),
    "file": pa.array([b"\x00\xff", None, b"", b"ab"]),
    "series": pa.array([[1.0, 2.0], [], None, [3.0]]),
    "gaps": pa.array([[1, None], [2], [3], [4]]),
    "vector": pa.FixedSizeListArray.from_arrays(pa.array(range(8), pa.float32()), 2),
    "grid": pa.array([[[1, 2], [3, 4]], [[5, 6]], [], None], pa.list_(pa.list_(pa.int16()))),
    "tags": pa.array([["a", "b"], None, [], ["c"]]),
    "identity": pa.array([2**64 - 1, 1, 2, None], pa.uint64()),
    "day": pa.array([0, 1, None, 3], pa.date32()),
    "image": pa.array([{"bytes": b"PNG", "path": "x"}, {"bytes": None, "path": "b.png"}, None, None]),
    "nothing": pa.nulls(4),
    "deep": pa.array([{"a": [1]}, None, {"a": []}, {"a": None}]),
}


@pytest.fixture
def parquet_file(tmp_path):
    """A file with two groups of rows and every kind of column."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(PARQUET), path, row_group_size=2)
    return path


def plain(cells):
    """Arrays as lists, so that they can be compared."""
    return [cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in cells]


def test_parquet_keeps_numbers_arrays_and_bytes(parquet_file):
    table = read_table(parquet_file)

    assert table.root == parquet_file.parent
    assert table.lines == (0, 1, 2, 3)
    assert table.column("path") == ["a.png", None, None, "ü.png"]
    assert table.column("label") == ["x", "y", None, "x"]
    assert table.column("count") == [1, None, 3, 4]
    assert table.column("share") == [0.5, None, None, 2.0]
    assert table.column("truth") == [True, False, None, True]
    assert table.column("file") == [b"\x00\xff", None, b"", b"ab"]
    assert plain(table.column("series")) == [[1.0, 2.0], [], None, [3.0]]
    assert plain(table.column("gaps"))[1:] == [[2], [3], [4]]
    assert np.isnan(table.cell(0, "gaps")[1])
    assert plain(table.column("grid")) == [[[1, 2], [3, 4]], [[5, 6]], [], None]
    assert table.column("tags") == [["a", "b"], None, [], ["c"]]
    assert table.column("identity") == [str(2**64 - 1), "1", "2", None]
    assert table.column("day") == ["1970-01-01", "1970-01-02", None, "1970-01-04"]
    assert table.column("image") == [b"PNG", "b.png", None, None]
    assert table.column("nothing") == [None] * 4
    assert table.column("deep") == [{"a": [1]}, None, {"a": []}, {"a": None}]
    assert table.array("vector").tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert isinstance(table.cell(1, "vector"), np.ndarray)
    assert table.array("series") is None
    assert table.array("count") is None  # not all of it is there


def test_labels_and_statistics_come_from_numbers_too(parquet_file):
    table = read_table(parquet_file)

    assert table.classes("count") == ["1", "3", "4"]
    assert table.classes("truth") == ["False", "True"]
    assert table.statistics("count") == pytest.approx({"mean": 8 / 3, "std": np.std([1, 3, 4])})
    assert table.take([3, 1]).statistics("share") == {"mean": 2.0, "std": 1.0}
    cells, codes = table.take([3, 1, 0]).distinct("count")
    assert [None if code < 0 else cells[code] for code in codes.tolist()] == [4, None, 1]


@pytest.mark.plain
def test_parquet_that_is_damaged_or_a_bomb_is_refused(tmp_path, parquet_file, monkeypatch):
    (tmp_path / "cut.parquet").write_bytes(parquet_file.read_bytes()[:-50])
    (tmp_path / "text.parquet").write_bytes(b"hello")
    flipped = bytearray(parquet_file.read_bytes())
    flipped[100:400] = b"\xff" * 300
    (tmp_path / "flipped.parquet").write_bytes(flipped)
    pq.write_table(pa.table({"text": ["x" * 10_000] * 10_000}), tmp_path / "bomb.parquet")
    zeros = pa.table({"n": np.zeros(1_000_000, np.int64)})
    pq.write_table(zeros, tmp_path / "zeros.parquet", use_dictionary=False, compression="zstd")
    pq.write_table(zeros, tmp_path / "same.parquet")  # a dictionary with one word: small by its metadata too
    pq.write_table(pa.table({"a": [1]}).append_column("a", [[2]]), tmp_path / "twice.parquet")
    monkeypatch.setattr(parquet, "SMALL", 10_000)

    for name in ("cut", "text", "flipped"):
        with pytest.raises(DataError, match=f"{name}.parquet is not a whole Parquet file: .* Expected one. Write it"):
            read_table(tmp_path / f"{name}.parquet")
    for name in ("bomb", "zeros", "same"):
        with pytest.raises(
            DataError, match=f"{name}.parquet holds more than 200 times its size. .* read it with pandas"
        ):
            read_table(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"twice.parquet has columns of one name: \['a'\]"):
        read_table(tmp_path / "twice.parquet")
    monkeypatch.setattr(parquet, "MOST_ROWS", 3)
    with pytest.raises(DataError, match="has 4 rows. Expected 3 at most. Split it into several files"):
        read_table(parquet_file)


@pytest.mark.plain
def test_without_pyarrow_the_message_says_what_to_install(parquet_file, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(ImportError, match=r"which pyarrow reads. .* pip install 'mmfuse\[tables\]'"):
        read_table(parquet_file)


def test_arrays_are_held_as_they_are():
    images = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    features = torch.arange(8.0).view(4, 2)
    series = [np.ones((2, 3), np.float32), None, np.zeros((0, 3), np.float32), np.ones((1, 3), np.float32)]

    table = read_table({"image": images, "features": features, "series": series, "age": np.array([3.0, np.nan, 5, 4])})

    assert len(table) == 4
    assert table.array("image").data_ptr() == images.ctypes.data
    assert table.array("features").data_ptr() == features.data_ptr()
    assert table.array("series") is None
    assert isinstance(table.cell(1, "image"), np.ndarray)
    assert np.array_equal(table.cell(1, "image"), images[1])
    assert isinstance(table.cell(1, "features"), torch.Tensor)
    assert [None if x is None else x.shape for x in table.column("series")] == [(2, 3), None, (0, 3), (1, 3)]
    assert table.column("age") == [3.0, None, 5.0, 4.0]
    assert table.statistics("age")["mean"] == 4.0
    part = table.take([2, 0])
    assert torch.equal(part.array("features"), features[[2, 0]])
    assert np.array_equal(part.cell(1, "image"), images[0])


def test_arrays_of_one_shape_become_one_array_and_mapped_ones_stay_on_the_disk(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(3, 2))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")

    table = read_table(
        {"mapped": mapped, "list": [torch.ones(2), torch.zeros(2), torch.ones(2)], "n": np.arange(3)[::-1]}
    )

    assert table.array("mapped").data_ptr() == mapped.ctypes.data
    assert table.array("list").shape == (3, 2)
    assert table.column("n") == [2, 1, 0]
    assert read_table([{"x": np.ones(3)}, {"x": np.zeros(3)}]).array("x").shape == (2, 3)
    assert read_table({"big": np.array([1.5, 2.5], ">f8")}).column("big") == [1.5, 2.5]
    assert read_table({"id": np.array([2**63 + 5, 3], np.uint64)}).column("id") == ["9223372036854775813", "3"]


def test_pictures_and_pairs_of_sound_and_rate_stay_objects():
    picture, sound = Image.new("RGB", (2, 2)), (np.zeros(10, np.float32), 16000)

    table = read_table([{"image": picture, "audio": sound, "file": b"RIFF"}, {"image": None, "text": "hi"}])

    assert table.column("image") == [picture, None]
    assert table.cell(0, "audio") is sound
    assert table.column("file") == [b"RIFF", None]
    assert table.distinct("image")[1].tolist() == [0, -1]
    assert read_table({"x": [np.zeros(2), float("nan"), pd.NA, picture]}).column("x")[1:] == [None, None, picture]


@pytest.mark.plain
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"a": [1, 2], "b": np.zeros(3)},
            r"columns of the mapping differ in length: {'a': 2, 'b': 3}. Expected a cell",
        ),
        (
            {"text": "hello"},
            "Column 'text' of the mapping is a str. Expected an array or a list .* put the mapping into",
        ),
        ({"x": 3}, "Column 'x' of the mapping is a int"),
        ({"x": torch.tensor(3)}, "Column 'x' of the mapping is a Tensor. Expected an array or a list with a cell"),
        ({}, "the mapping has no rows"),
        ([], "the list has no rows"),
        (pd.DataFrame({"a": []}), "the frame has no rows"),
        ({"x": [[1.0, float("nan")], [2.0]]}, "Column 'x' of the mapping has a list with a number that is not finite"),
    ],
)
def test_what_is_no_table_of_cells_is_refused(source, message):
    with pytest.raises(DataError, match=message):
        read_table(source)


@pytest.mark.plain
def test_what_is_no_source_at_all_is_refused():
    with pytest.raises(
        TypeError, match=r"read_table got a generator. Expected a file \(.csv, .* Put the rows into a list"
    ):
        read_table({"a": i} for i in range(3))


def test_frames_keep_lists_and_arrays():
    frame = pd.DataFrame({"list": [[1, 2], None, ["a"]], "array": [np.ones(2), np.ones(3), None], "n": [1.5, None, 2]})

    table = read_table(frame)

    assert table.column("list") == [[1, 2], None, ["a"]]
    assert plain(table.column("array")) == [[1, 1], [1, 1, 1], None]
    assert table.column("n") == ["1.5", None, "2.0"]
