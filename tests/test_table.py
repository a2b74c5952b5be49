"""Tables: what is read, what is refused, and what the messages say."""

import csv
import json

import pandas as pd
import pytest

from mmfuse.data import DataError, read_table


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_cells_stay_as_they_are_written_and_empty_ones_are_none(tmp_path):
    path = write(tmp_path / "t.csv", b'\xef\xbb\xbfimage,label\r\na.png,007\r\n,NA\r\n"b,c.png",1.0\r\nd.png,  \r\n')

    table = read_table(path)

    assert table.columns == ("image", "label")
    assert table.column("label") == ["007", "NA", "1.0", None]
    assert table.column("image") == ["a.png", None, "b,c.png", "d.png"]
    assert table.lines == (2, 3, 4, 5)
    assert table.root == tmp_path


def test_json_lines_and_frames_give_the_same_cells_as_csv(tmp_path):
    rows = [{"text": "hi", "label": 3, "tags": ["a", "b"]}, {"text": None, "label": 4}, {"text": "ho", "tags": []}]
    path = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    frame = pd.DataFrame({"text": ["hi", None, "ho"], "label": pd.array([3, 4, None], dtype="Int64")})

    from_lines, from_frame = read_table(path), read_table(frame, root=tmp_path)

    from_list = read_table(rows)

    for table in (from_lines, from_frame, from_list):
        assert table.column("text") == ["hi", None, "ho"]
        assert table.column("label") == ["3", "4", None]
    assert from_lines.column("tags") == [["a", "b"], None, []]
    assert from_frame.root == tmp_path


def test_classes_come_in_the_order_of_numbers_or_of_text(tmp_path):
    path = write(tmp_path / "t.csv", "n,word,tags\n10,b,x|y\n-2,a,y\n9,,|\n,b,z | x\n")

    table = read_table(path)

    assert table.classes("n") == ["-2", "9", "10"]
    assert table.classes("word") == ["a", "b"]
    assert table.classes("tags", separator="|") == ["x", "y", "z"]


def test_statistics_are_those_of_numpy(tmp_path):
    numbers = pd.Series([3.5, -1.0, 12.25, 7.0])
    path = write(tmp_path / "t.csv", "y\n" + "\n".join(map(str, numbers)) + "\n")

    found = read_table(path).statistics("y")

    assert found["mean"] == pytest.approx(numbers.mean(), abs=1e-12)
    assert found["std"] == pytest.approx(numbers.std(ddof=0), abs=1e-12)


def test_columns_are_renamed_or_declared_absent(tmp_path):
    path = write(tmp_path / "t.csv", "photo,label\na.png,x\n")

    table = read_table(path, columns={"image": "photo", "audio": None})

    assert table.rows[0] == {"label": "x", "image": "a.png", "audio": None}


def test_a_split_has_every_row_once_and_keeps_groups_together(tmp_path):
    path = write(tmp_path / "t.csv", "who,n\n" + "".join(f"p{i % 7},{i}\n" for i in range(100)))
    table = read_table(path)

    parts = table.split(0.6, 0.2, 0.2, seed=3)
    grouped = table.split(0.6, 0.4, group="who")

    assert sorted(int(row["n"]) for part in parts for row in part.rows) == list(range(100))
    assert [len(part) for part in parts] == [60, 20, 20]
    assert not set(grouped[0].column("who")) & set(grouped[1].column("who"))
    assert parts[0].rows == table.split(0.6, 0.2, 0.2, seed=3)[0].rows
    with pytest.raises(ValueError, match=r"split got shares \(0.5, 0.2\). Expected positive numbers that add up to 1"):
        table.split(0.5, 0.2)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "t.csv has no rows. Expected at least one below the header"),
        ("t.csv", "a,b\n", "t.csv has no rows"),
        ("t.csv", "a,b,a\n1,2,3\n", r"t.csv line 1 has columns of one name: \['a'\] \(columns \[1, 3\]\). Expected different"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", "t.csv line 3 has 3 cells. Expected 2, as in the header. Put cells"),
        ("t.csv", b"a\n\xff\xfe\n", "t.csv is not UTF-8 text"),
        ("t.csv", 'y,text\n1,a\n2,"open\n3,b\n', "t.csv line 4 is not CSV: .* Expected quotation marks in pairs. Put"),
        ("t.csv", 'y,text\n1,"a" word\n', "t.csv line 2 is not CSV: .* Expected quotation marks in pairs. Put"),
        ("t.jsonl", '{"a": 1}\n{"a": \n', "t.jsonl line 2 is not JSON: .* Expected one object a line"),
        ("t.jsonl", "[1]\n", "t.jsonl line 1 is a list. Expected an object with named cells"),
        ("t.xlsx", "x", r"t.xlsx is of an unknown kind '.xlsx'. Expected .csv, .jsonl, .parquet, .* Convert it"),
    ],
)
def test_a_broken_table_is_refused_by_line(tmp_path, name, text, message):
    path = write(tmp_path / name, text)

    with pytest.raises(DataError, match=message):
        read_table(path)


@pytest.mark.plain
def test_wrong_names_are_answered_with_the_nearest(tmp_path):
    table = read_table(write(tmp_path / "train.csv", "image,label,age\na.png,x,old\n"))

    with pytest.raises(DataError, match=r"is not a file. Expected a table \(.csv, .* Did you mean 'train.csv'"):
        read_table(tmp_path / "trian.csv")
    with pytest.raises(DataError, match=r"train.csv has no column 'lable'. Expected one of .* Did you mean 'label'"):
        table.column("lable")
    with pytest.raises(DataError, match="has no column 'photo'"):
        read_table(tmp_path / "train.csv", columns={"image": "photo"})
    with pytest.raises(DataError, match="has no column 'photo'.* with None for its name if this table has none"):
        table.column("photo")
    with pytest.raises(DataError, match="line 2: column 'age' is not numeric: 'old'. Expected numbers. Mend the cell"):
        table.statistics("age")


def test_a_long_text_is_a_cell_like_any_other(tmp_path):
    limit = csv.field_size_limit()

    table = read_table(write(tmp_path / "t.csv", "text,y\n" + "word " * 40_000 + ",1\n"))

    assert len(table.rows[0]["text"]) == 200_000
    assert csv.field_size_limit() == limit


def test_names_of_columns_may_be_numbers():
    assert read_table([{1: "a"}, {"1": "b", 2: 3}]).rows == ({"1": "a", "2": None}, {"1": "b", "2": "3"})


def test_the_order_of_classes_does_not_depend_on_chance():
    rows = [{"y": label} for label in ("10", "nan", "9", "Inf")]

    assert read_table(rows).classes("y") == ["10", "9", "Inf", "nan"]


@pytest.mark.plain
@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: read_table(["a", "b"]),
            "Row 0 of the list is a str. Expected a mapping from column to cell. Write it",
        ),
        (lambda: read_table(pd.DataFrame([[1, 2]], columns=["a", "a"])), r"the frame has columns of one name: \['a'\]"),
        (lambda: read_table([{"y": 1.5}, {"y": "inf"}]).statistics("y"), "line 1: column 'y' is not numeric: 'inf'"),
        (lambda: read_table([{"y": [1, 2]}]).statistics("y"), r"line 0: column 'y' is not numeric: \[1, 2\]"),
        (lambda: read_table([{"y": None}]).statistics("y"), "column 'y' has no number. Expected at least one. Fill"),
        (lambda: read_table([{"y": None}]).classes("y"), "column 'y' has no label. Expected at least one. Fill"),
    ],
)
def test_what_is_no_table_of_numbers_or_labels_is_refused(act, message):
    with pytest.raises(DataError, match=message):
        act()
