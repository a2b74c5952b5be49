"""Where a row stands: files are counted by lines, what is in memory by rows."""

from mmfuse.data import read_table
from mmfuse.data.tables.places import first_places, place_of


def test_files_have_lines_and_lists_have_rows(tmp_path):
    (tmp_path / "x.csv").write_text("y\n" + "a\n" * 8)
    file, rows = read_table(tmp_path / "x.csv"), read_table([{"y": "a"}] * 8)

    assert [place_of(file, 0), place_of(rows, 0)] == ["x.csv line 2", "row 0 of the list"]
    assert [place_of(file, 0, 3), place_of(rows, 0, 3)] == ["x.csv lines 2 and 5", "rows 0 and 3 of the list"]
    assert first_places(file, range(8)) == "x.csv lines 2, 3, 4, 5, 6 and 3 more"
    assert first_places(rows, range(8)) == "rows 0, 1, 2, 3, 4 and 3 more of the list"
