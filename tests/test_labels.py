"""Labels of a table: encoded once for each different cell, refused with their lines before anything is read."""

import pytest
import torch
from tiny_loader import Number, model_of

from mmfuse.data import DataError, load_batches, read_table
from mmfuse.data.loading.labels import encode_labels
from mmfuse.tasks import Classification, EachModality, MultiLabel, Regression


def table_of(labels, column="y"):
    return read_table([{"x": "1", column: label} for label in labels])


TASKS = [
    (Classification(4, ["a", "b"]), ["b", None, "a", "b"]),
    (Classification(4, 3), [2, None, 0, 1]),
    (MultiLabel(4, ["a", "b"]), ["a|b", "|", None, "b"]),
    (MultiLabel(4, ["a", "b"]), [["a"], ["b", "a"], None, []]),
    (Regression(4), ["3.5", None, 4, 1e3]),
    (EachModality(Regression(4), ["x"]), ["3.5", None, "4", "1e3"]),
]


@pytest.mark.parametrize(("task", "cells"), TASKS)
def test_labels_encoded_together_are_those_encoded_one_by_one(task, cells):
    labels = encode_labels(table_of(cells), "y", task)

    target = labels.take(torch.arange(len(cells)))
    for row, cell in enumerate(cells):
        assert bool(target.known[row]) == (cell is not None)
        expected = task.blank() if cell is None else task.encode(cell)
        torch.testing.assert_close(target.values[row], expected, rtol=0, atol=0)
        assert (labels[row] is None) == (cell is None)
    assert labels.known == 3


def test_each_different_cell_is_encoded_once():
    labels = encode_labels(table_of(["a", "b"] * 500), "y", Classification(4, ["a", "b"]))

    assert labels.values.tolist() == [0, 0, 1]  # the first stands for unknown labels
    assert labels.codes.tolist() == [1, 2] * 500
    assert labels.different == 2


def test_a_task_of_ones_own_needs_no_way_for_many():
    class Length(torch.nn.Module):
        def encode(self, cell):
            return torch.tensor(len(cell))

        def blank(self):
            return torch.tensor(0)

    labels = encode_labels(table_of(["aa", None, "aaaa"]), "y", Length())

    assert labels.take(torch.tensor([2, 0, 1])).values.tolist() == [4, 2, 0]
    assert encode_labels(table_of([None, None]), "y", Length()).known == 0


def test_arrays_of_ones_and_zeros_are_labels_as_they_are():
    given = torch.tensor([[1, 0, 1], [0, 0, 0]])

    labels = encode_labels(read_table({"y": given}), "y", MultiLabel(4, ["a", "b", "c"]))

    assert labels.take(torch.tensor([0, 1])).values.tolist() == given.float().tolist()


@pytest.mark.plain
@pytest.mark.parametrize(
    ("task", "cells", "message"),
    [
        (Classification(4, 3), [0, -100, 1], "row 1 of .*column 'y': label '-100' is not a class. Expected one of"),
        (
            Classification(4, 3),
            [0, 7, 7, 7, 7, 7, 7, 7],
            "rows 1, 2, 3, 4, 5 and 2 more of .*column 'y': label '7' is not",
        ),
        (Classification(4, ["a", "b"]), ["a", "c", "d", "c"], r"rows 1 and 3 of the .* 'c' .* Nor are: 'd' \(row 2 of"),
        (Classification(4, ["a", "b"]), ["1", "2", "3", "4", "5", "6"], r"Nor are: .*'5' \(row 4 .*\), perhaps more\."),
        (Regression(4), ["1", "inf"], "row 1 of .*column 'y': label 'inf' is not a finite number. Expected one"),
        (Regression(4), ["1", "1e300"], "row 1 of .*column 'y': label '1e300' is not a finite number"),
        (Regression(4), ["1", ["2", "3"]], r"row 1 of .*column 'y': label \['2', '3'\] is not a finite number"),
        (MultiLabel(4, ["a", "b"]), ["a|b", "a|z"], "row 1 of .*column 'y': label 'z' is not a class"),
    ],
)
def test_a_cell_that_is_no_label_is_named_with_its_lines(task, cells, message):
    with pytest.raises(DataError, match=message):
        load_batches(table_of(cells), model_of({"y": task}, x=Number()))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            torch.tensor([[1.0, 0.0], [3.0, 0.0]]),
            r"row 1 of the [a-z]+, .*label 3.0 of 2 yes-or-no labels. Expected 0 or 1 for each",
        ),
        (torch.ones(2, 3), r"row 0 of the [a-z]+, .*the labels have shape \(3,\). Expected \(2,\), a 0 or 1 for each"),
    ],
)
def test_an_array_that_is_no_labels_is_refused(array, message):
    with pytest.raises(DataError, match=message):
        encode_labels(read_table({"y": array}), "y", MultiLabel(4, ["a", "b"]))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"x": 1, "y": "a"}, {"x": 2, "y": "a"}],
            "all labels in column 'y' are the same. Expected two or more classes",
        ),
        ([{"x": 1, "y": None}, {"x": 2, "y": None}], "column 'y' has no label. Expected at least one to train on"),
        ([{"x": None, "y": "a"}, {"x": None, "y": "b"}], "no row has the modality 'x': column 'x' is empty throughout"),
    ],
)
def test_a_table_that_teaches_nothing_is_refused_for_training_only(rows, message):
    table = read_table(rows)

    with pytest.raises(DataError, match=message):
        load_batches(table, model_of(x=Number()), train=True)
    assert len(list(load_batches(table, model_of(x=Number())))) == 1


@pytest.mark.plain
def test_one_number_for_all_rows_may_be_learnt_and_an_empty_split_may_not():
    table = table_of(["5", "5"])
    model = model_of({"y": Regression(4)}, x=Number())

    assert len(load_batches(table, model, train=True)) == 1
    for train in (False, True):
        with pytest.raises(DataError, match="the list has no row"):
            load_batches(table.take([]), model, train=train)


@pytest.mark.plain
def test_the_label_that_torch_passes_over_is_an_error_of_the_loss():
    task = Classification(4, 3)

    with pytest.raises(IndexError, match="Target -100 is out of bounds"):
        task.loss(torch.zeros(2, 3), torch.tensor([1, -100]))
