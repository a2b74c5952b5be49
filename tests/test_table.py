"""Tables: what is read, what is refused, and what the messages say."""

import csv
import json
import pickle

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

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


def test_columns_without_a_name_have_the_one_that_pandas_gives_them(tmp_path):
    frame = pd.DataFrame({"text": ["hi", "ho"], "label": ["x", "y"]})
    frame.to_csv(tmp_path / "t.csv")  # with its index

    table = read_table(tmp_path / "t.csv", id="Unnamed: 0")

    assert table.columns == ("Unnamed: 0", "text", "label")
    assert table.columns == tuple(pd.read_csv(tmp_path / "t.csv").columns)
    assert read_table(write(tmp_path / "ends.csv", "a, ,\n1,2,\n")).columns == ("a", "Unnamed: 1", "Unnamed: 2")


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
    for arrays in (np.eye(2), [np.array([0, 1]), np.array([1])]):
        with pytest.raises(DataError, match="column 'y' holds arrays of shape .* give MultiLabel the names"):
            read_table({"y": arrays}).classes("y")


def test_statistics_are_those_of_numpy(tmp_path):
    numbers = pd.Series([3.5, -1.0, 12.25, 7.0])
    path = write(tmp_path / "t.csv", "y\n" + "\n".join(map(str, numbers)) + "\n")

    found = read_table(path).statistics("y")

    assert found["mean"] == pytest.approx(numbers.mean(), abs=1e-12)
    assert found["std"] == pytest.approx(numbers.std(ddof=0), abs=1e-12)


@pytest.mark.parametrize("number", ["0.1", "0.7", "1e-30"])
def test_a_constant_has_the_deviation_one_whatever_the_rounding(number):
    for rows in range(1, 20):
        assert read_table({"y": [number] * rows}).statistics("y")["std"] == 1.0


def test_paths_are_those_of_the_folder_in_which_the_table_was_read(tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "other"):
        folder.mkdir(exist_ok=True)
        (folder / "a.txt").write_text(folder.name)
    write(tmp_path / "t.csv", "file\na.txt\n")
    monkeypatch.chdir(tmp_path)
    tables = [read_table("t.csv"), read_table([{"file": "a.txt"}]), read_table([{"file": "a.txt"}], root=".")]

    monkeypatch.chdir(tmp_path / "other")

    assert [table.path("a.txt").read_text() for table in tables] == [tmp_path.name] * 3


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
        (
            "t.csv",
            "a,b,a\n1,2,3\n",
            r"t.csv line 1 has columns of one name: \['a'\] \(columns \[1, 3\]\). Expected different",
        ),
        (
            "t.csv",
            ",Unnamed: 0\n1,2\n",
            r"of one name: \['Unnamed: 0'\] \(columns \[1, 2\]\). Expected different names",
        ),
        ("t.csv", "a,b\n\n\n", "t.csv has no rows. Expected at least one below the header"),
        ("t.csv", "a,b\n1,2\n1,2,3\n", "t.csv line 3 has 3 cells. Expected 2, as in the header. Put cells"),
        ("t.csv", b"a\n\xff\xfe\n", "t.csv is not UTF-8 text"),
        ("t.csv", 'y,text\n1,a\n2,"open\n3,b\n', "t.csv line 4 is not CSV: .* Expected quotation marks in pairs. Put"),
        ("t.csv", 'y,text\n1,"a" word\n', "t.csv line 2 is not CSV: .* Expected quotation marks in pairs. Put"),
        ("t.jsonl", '{"a": 1}\n{"a": \n', "t.jsonl line 2 is not JSON: .* Expected one object a line"),
        ("t.jsonl", "[1]\n", "t.jsonl line 1 is a list. Expected an object with named cells"),
        ("t.xlsx", "x", r"t.xlsx is of an unknown kind '.xlsx'. Expected .csv, .tsv, .jsonl, .parquet, .* Convert it"),
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
        (lambda: read_table([{"y": 1.5}, {"y": "inf"}]).statistics("y"), "row 1 of the list: .*: 'inf'"),
        (lambda: read_table([{"y": [1, 2]}]).statistics("y"), r"row 0 of .* column 'y' is not numeric: \[1, 2\]"),
        (lambda: read_table([{"y": None}]).statistics("y"), "column 'y' has no number. Expected at least one. Fill"),
        (lambda: read_table([{"y": None}]).classes("y"), "column 'y' has no label. Expected at least one. Fill"),
    ],
)
def test_what_is_no_table_of_numbers_or_labels_is_refused(act, message):
    with pytest.raises(DataError, match=message):
        act()


def test_the_line_of_a_row_is_where_it_ends_in_the_file(tmp_path):
    path = write(tmp_path / "t.csv", 'a,b\n\n1,"two\r\nlines"\n\n2,"three\nof\rthem"\n3,x\n')

    table = read_table(path)

    assert table.lines == (4, 8, 9)
    assert table.column("b") == ["two\r\nlines", "three\nof\rthem", "x"]
    assert table.take([2, 0]).line(1) == 4


@pytest.mark.plain
def test_a_broken_row_after_a_cell_of_several_lines_is_named(tmp_path):
    with pytest.raises(DataError, match="t.csv line 5 has 1 cells. Expected 2"):
        read_table(write(tmp_path / "t.csv", 'a,b\n1,"two\nlines"\n\n2\n'))
    with pytest.raises(DataError, match="t.csv line 3 holds a NUL character. Expected text. Is the file damaged"):
        read_table(write(tmp_path / "t.csv", "a,b\n1,2\n3,\0\n"))


@pytest.mark.plain
def test_two_rows_of_one_id_are_refused_with_both_lines(tmp_path):
    path = write(tmp_path / "t.csv", "name,y\nu1,1\nu2,2\n,3\nu1,4\nu2,5\n")

    with pytest.raises(DataError, match="t.csv line 4 has no id in column 'name'. Expected one in every row. Fill"):
        read_table(path, id="name")
    path.write_text(path.read_text().replace("\n,3", "\nu3,3"))
    with pytest.raises(
        DataError, match=r"lines 2 and 5 have the same id 'u1' in column 'name'. .* \(2 rows too many\)"
    ):
        read_table(path, id="name")
    with pytest.raises(DataError, match="has no column 'nmae'.* Did you mean 'name'"):
        read_table(path, id="nmae")
    assert len(read_table(path, id="y")) == 5


def test_rows_are_selected_by_a_cell_or_a_function_of_it():
    table = read_table(
        [{"split": s, "day": d} for s, d in [("train", "2014"), ("test", "2015"), (None, None), ("train", "2016")]]
    )

    assert table.where("split", "train").column("day") == ["2014", "2016"]
    assert table.where("day", lambda day: day < "2016").lines == (0, 1)
    assert table.where("day", 2015).where("split", "test").lines == (1,)


@pytest.mark.plain
def test_a_selection_or_part_without_a_row_is_refused():
    table = read_table([{"split": "train", "who": "a"}, {"split": "test", "who": "a"}, {"split": None, "who": "a"}])

    with pytest.raises(DataError, match=r"column 'split' has no 'trian'. Expected one such as .* Did you mean 'train'"):
        table.where("split", "trian")
    with pytest.raises(DataError, match="'split' has no cell for which the function is true. Expected one such as"):
        table.where("split", lambda cell: False)
    with pytest.raises(
        DataError, match=r"3 rows cannot be split into \(0.9, 0.1\): part 1 would be empty. Expected a row"
    ):
        table.split(0.9, 0.1)
    with pytest.raises(DataError, match="the groups of column 'who' cannot be split .* part 0 would be empty"):
        table.split(0.3, 0.7, group="who")


@pytest.mark.plain
def test_rows_are_chosen_by_their_numbers():
    table = read_table([{"n": i} for i in range(5)])

    assert table.take([-1, 0]).column("n") == ["4", "0"]
    assert table.take([3, 2, 1]).take([2, 0]).lines == (1, 3)
    assert table.take([]).column("n") == []
    assert table.cells(torch.tensor([4, 4]), "n") == ["4", "4"]
    assert table.rows[1:3] == [{"n": "1"}, {"n": "2"}]
    assert table.rows != [{"n": "1"}]
    assert repr(table) == "Table(the list: 5 rows; columns n)"
    with pytest.raises(TypeError, match=r"rows are chosen by a torch.bool tensor .* Use mask.nonzero\(\).flatten\(\)"):
        table.take(torch.ones(5, dtype=torch.bool))
    assert table.take(np.array([2, 1], dtype=np.uint16)).column("n") == ["2", "1"]
    for wrong in ([True, False, True, False, False], np.array([True] * 5), [1.7], torch.tensor([1.7])):
        with pytest.raises(TypeError, match="rows are chosen by a torch.(bool|float..) tensor .* Expected a list of"):
            table.take(wrong)
    for act in (lambda: table.take([5]), lambda: table.cell(5, "n"), lambda: table.take([0]).cell(1, "n")):
        with pytest.raises(IndexError, match=r"the list has rows 0 to .\. Got "):
            act()


def big(tmp_path, rows):
    lines = (f"images/{i:06d}.jpg,audio/{i:06d}.wav,{'a few words of text ' * 2}{i},{i % 50}" for i in range(rows))
    return write(tmp_path / f"{rows}.csv", "image,audio,text,label\n" + "\n".join(lines) + "\n")


def test_a_table_costs_its_text_and_nine_bytes_a_cell_and_a_part_of_it_eight_bytes_a_row(tmp_path):
    path = big(tmp_path, 20_000)
    table = read_table(path)

    part, _ = table.split(0.5, 0.5)

    size = len(pickle.dumps(table))
    assert size < path.stat().st_size + 20_000 * (4 * 9 + 8) + 5000
    assert len(pickle.dumps(part)) < size + 10_000 * 8 + 1000
    assert part.store is table.store
    assert pickle.loads(pickle.dumps(part)).rows == part.rows


class Memory(torch.utils.data.Dataset):
    """What a worker has for itself after it has read every cell."""

    def __init__(self, table):
        self.table = table

    def __len__(self):
        return 1

    def __getitem__(self, _):
        for column in self.table.columns:
            for row in range(0, len(self.table), 7):
                self.table.cell(row, column)
        return psutil.Process().memory_full_info().uss


def test_the_memory_of_a_worker_does_not_grow_with_the_table(tmp_path):
    used = {}
    for rows in (1000, 100_000):
        table = read_table(big(tmp_path, rows))
        loader = torch.utils.data.DataLoader(Memory(table), num_workers=1, batch_size=None)
        (used[rows],) = loader

    text = (tmp_path / "100000.csv").stat().st_size
    assert used[100_000] - used[1000] < text / 3  # a copy would cost 1.5 times the text; what is left is noise


def test_a_column_is_added_to_a_table_and_to_a_part_of_one():
    table = read_table({"id": ["a", "b", "c"], "n": np.arange(3)})

    more = table.with_column("file", [f"{cell}.csv" for cell in table.column("id")])
    part = table.take([2, 0]).with_column("file", ["z", None]).with_column("n", [7, 8])

    assert more.columns == ("id", "n", "file")
    assert more.column("file") == ["a.csv", "b.csv", "c.csv"]
    assert table.columns == ("id", "n")
    assert [part.rows[i]["file"] for i in range(2)] == ["z", None]
    assert [str(cell) for cell in part.column("n")] == ["7", "8"]
    with pytest.raises(DataError, match="column 'file' got 2 cells. Expected 3, one for each row"):
        table.with_column("file", ["x", "y"])
    with pytest.raises(DataError, match="Column 'x' of the mapping has a list with a number that is not finite"):
        table.with_column("x", [[1.0], [float("nan")], None])


def test_tabs_divide_the_cells_of_a_tsv_and_other_marks_are_named(tmp_path):
    table = read_table(write(tmp_path / "t.tsv", "text\tlabel\na, b\tx\n"))

    assert table.rows[0] == {"text": "a, b", "label": "x"}
    assert read_table(write(tmp_path / "one.csv", "a;b\nx\n")).columns == ("a;b",)
    with pytest.raises(DataError, match=r"has one column, 'text;label'. Expected cells with commas .*, not ';'"):
        read_table(write(tmp_path / "t.csv", "text;label\nhello;x\n"))
