"""Rows of numbers and categories: the layout, what is missing or unseen, and statistics of the training table."""

import math
import pickle

import numpy as np
import pytest
import torch

from mmfuse._record import arguments_of
from mmfuse.data import DataError, read_table, tabular_statistics
from mmfuse.data.transforms import TabularTransform, Transform

NUMBERS = {"age": [50.0, 10.0], "dose": [0.0, 0.5]}
CATEGORIES = {"sex": ["female", "male"], "ward": ["1", "2", "3"]}
ROWS = [
    {"age": "60", "dose": "1.5", "sex": "male", "ward": "1"},
    {"age": None, "dose": 0, "sex": None, "ward": 3},
    {"age": 45.0, "dose": True, "sex": "other", "ward": 2.0},
    {"age": math.nan, "dose": None, "sex": "female", "ward": math.nan},
]
EXPECTED = [
    [1.0, 3.0, 1, 1, 3, 2],
    [0.0, 0.0, 0, 1, 0, 4],
    [-0.5, 2.0, 1, 1, 1, 3],
    [0.0, 0.0, 0, 0, 2, 0],
]


def make():
    return TabularTransform(numbers=NUMBERS, categories=CATEGORIES)


def test_the_layout_is_numbers_then_flags_then_codes():
    transform = make()

    tensors, lost = transform.batch(ROWS)

    assert torch.stack(tensors).tolist() == EXPECTED
    assert [transform(row).tolist() for row in ROWS] == EXPECTED
    assert lost == [0, 0, 0, 0]
    assert tensors[0].dtype == torch.float32
    assert transform.blank().tolist() == [0.0] * 6
    assert transform.columns == ("age", "dose", "sex", "ward")


def test_one_kind_of_column_is_enough():
    assert TabularTransform(numbers=NUMBERS)(ROWS[0]).tolist() == [1.0, 3.0, 1, 1]
    assert TabularTransform(categories=CATEGORIES)(ROWS[0]).tolist() == [3, 2]


def test_large_numbers_keep_their_differences():
    """A time in seconds since 1970: float32 could not tell one from the next."""
    transform = TabularTransform(numbers={"time": [1.7e9, 1.0]})

    assert transform({"time": 1.7e9 + 1}).tolist() == [1.0, 1.0]


def test_is_a_transform_that_can_be_built_again_and_sent_to_workers():
    transform = make()

    again = pickle.loads(pickle.dumps(transform))

    assert isinstance(transform, Transform)
    assert arguments_of(again) == {"numbers": NUMBERS, "categories": CATEGORIES}
    assert again(ROWS[0]).tolist() == EXPECTED[0]


def test_statistics_are_those_of_the_cells_that_are_known(tmp_path):
    (tmp_path / "train.csv").write_text("age,dose,sex,ward\n10,0.1,m,\n,0.1,f,10\n30,0.1,m,9\n50,,,10\n")
    table = read_table(tmp_path / "train.csv")

    statistics = tabular_statistics(table, numbers=["age", "dose"], categories=["sex", "ward"])

    assert statistics["numbers"]["age"] == [30.0, float(np.std([10, 30, 50]))]
    assert statistics["numbers"]["dose"] == [pytest.approx(0.1), 1.0]  # constant
    assert statistics["categories"] == {"sex": ["f", "m"], "ward": ["10", "9"]}
    assert TabularTransform(**statistics)({"age": 30, "dose": 0.1, "sex": "m", "ward": "9"}).tolist()[4:] == [3, 3]


@pytest.mark.parametrize(
    ("cell", "name"),
    [(1, "1"), (1.0, "1"), ("1.0", "1"), (-2.0, "-2"), ("007", "007"), (0.5, "0.5"), (True, "True"), ("v1.0", "v1.0")],
)
def test_a_category_has_one_name(cell, name):
    assert tabular_statistics(read_table([{"x": cell}]), categories=["x"])["categories"] == {"x": [name]}


def test_categories_are_the_same_however_pandas_holds_them():
    pandas = pytest.importorskip("pandas")
    whole = read_table(pandas.DataFrame({"ward": [1, 2, 10]}))
    gaps = read_table(pandas.DataFrame({"ward": [1, None, 10, 2]}))

    assert tabular_statistics(whole, categories=["ward"]) == tabular_statistics(gaps, categories=["ward"])


CELLS = {
    "text": "old",
    "a decimal comma": "1,5",
    "infinity": "inf",
    "NaN in words": "nan",
    "infinity as a number": math.inf,
    "a list": [1.0],
    "no digits": "",
}


@pytest.mark.parametrize("name", CELLS)
def test_a_number_that_is_none_is_refused_with_its_column_and_line(name):
    cell = CELLS[name]
    message = r"column 'age' is not a finite number: .*Expected numbers with a point, such as 1\.5\. Mend the cell"

    with pytest.raises(ValueError, match=message):
        make().batch([ROWS[0], ROWS[1] | {"age": cell}])
    if cell != "":  # an empty cell to a table
        with pytest.raises(DataError, match=rf"row 1 of the list, {message}"):
            tabular_statistics(read_table([{"age": 1}, {"age": cell}]), numbers=["age"])


@pytest.mark.plain
def test_says_what_is_wrong():
    table = read_table([{"age": 1.0, "sex": "f", "empty": None}, {"age": 2.0, "sex": "m", "empty": None}])
    with pytest.raises(DataError, match=r"has no column 'aeg'.*Did you mean 'age'"):
        tabular_statistics(table, numbers=["aeg"])
    for kind in ("numbers", "categories"):
        with pytest.raises(DataError, match=r"column 'empty' is empty\. Expected at least one cell\. Leave"):
            tabular_statistics(table, **{kind: ["empty"]})
    with pytest.warns(UserWarning, match=r"column 'sex' has 2 categories in 2 rows\. Expected at most 1.*Is it an id"):
        tabular_statistics(table, categories=["sex"], max_categories=1)

    with pytest.raises(ValueError, match=r"TabularTransform got no columns\. Expected numbers=, categories=, or both"):
        TabularTransform()
    with pytest.raises(ValueError, match=r"got \['age'\] as numbers and as categories\. Expected one of the two"):
        TabularTransform(numbers=NUMBERS, categories={"age": ["1"]})
    for pair in ([1.0, 0.0], [1.0, math.nan], [math.inf, 1.0], [1.0]):
        with pytest.raises(ValueError, match=r"for the numbers in column 'age'\. Expected mean and standard deviation"):
            TabularTransform(numbers={"age": pair})
    for known in ([], ["a", "a"], "ab"):
        with pytest.raises(ValueError, match=r"for the categories in column 'sex'\. Expected a list of"):
            TabularTransform(categories={"sex": known})
    with pytest.raises(ValueError, match=r"got \['age'\]\. Expected a mapping with the columns \['age', 'dose'"):
        make()({"age": 1})
    with pytest.raises(ValueError, match=r"TabularTransform got int\. Expected a mapping"):
        make()(3)
    with pytest.raises(ValueError, match=r"in column 'dose' is too large for float32\. Expected another unit"):
        make()(ROWS[0] | {"dose": 1e300})
