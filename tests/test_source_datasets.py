"""Hugging Face datasets and a user's own: read when asked, one row at a time."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_loader import Number, model_of

from mmfuse.data import DataError, TableDataset, load_batches, read_table
from mmfuse.tasks import MultiLabel

datasets = pytest.importorskip("datasets")


@pytest.fixture
def pictures(tmp_path):
    """Four rows of a picture (a file, bytes, none, a file), a class, a text and a list."""
    paths = []
    for i in range(4):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (4, 4), (i, 0, 0)).save(paths[-1])
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "text": datasets.Value("string"),
            "series": datasets.Sequence(datasets.Value("float32")),
        }
    )
    whole = {"bytes": (tmp_path / "1.png").read_bytes(), "path": None}
    return datasets.Dataset.from_dict(
        {
            "image": [paths[0], whole, None, paths[3]],
            "label": [1, 0, -1, 1],
            "text": ["a", None, " ", "d"],
            "series": [[1.0], [], [2.0, 3.0], [4.0]],
        },
        features=features,
    )


def test_a_hugging_face_dataset_gives_files_and_names_of_classes(pictures, tmp_path):
    table = read_table(pictures, columns={"kind": "label"}, root=tmp_path)

    assert table.columns == ("image", "text", "series", "kind")
    assert table.column("kind") == ["dog", "cat", None, "dog"]
    assert table.classes("kind") == ["cat", "dog"]
    assert table.column("text") == ["a", None, None, "d"]
    assert [cell.tolist() for cell in table.column("series")] == [[1.0], [], [2.0, 3.0], [4.0]]
    path, file, none, _ = table.column("image")
    assert table.path(path).name == "0.png"
    assert file == (tmp_path / "1.png").read_bytes()
    assert none is None
    assert table.take([3, 0]).cells([1, 0], "kind") == ["dog", "dog"]
    assert table.where("kind", "cat").column("image") == [file]


def test_several_class_labels_of_a_cell_are_their_names():
    features = datasets.Features({"tags": datasets.Sequence(datasets.ClassLabel(names=["dog", "cat"]))})
    table = read_table(datasets.Dataset.from_dict({"tags": [[0, 1], [], [1], None]}, features=features))

    assert table.column("tags") == [["dog", "cat"], [], ["cat"], None]
    assert table.classes("tags") == ["cat", "dog"]
    tags = TableDataset(table, {}, {"tags": MultiLabel(4, ["dog", "cat"])}).targets["tags"].take(torch.arange(4))
    assert tags.values.tolist() == [[1, 1], [0, 0], [0, 1], [0, 0]] and tags.known.tolist() == [True] * 3 + [False]


def test_a_dataset_with_a_transform_of_its_own_gives_what_that_makes(pictures):
    pictures.set_transform(lambda batch: {"double": [text and text * 2 for text in batch["text"]]})

    assert read_table(pictures).column("double") == ["aa", None, None, "dd"]


def test_a_table_of_a_dataset_can_be_sent_to_a_worker(pictures):
    again = pickle.loads(pickle.dumps(read_table(pictures).take([3])))

    assert again.column("text") == ["d"]


@pytest.mark.plain
def test_splits_and_streams_are_not_tables(pictures):
    with pytest.raises(DataError, match=r"a DatasetDict of \['test', 'train'\]. Expected one of .* dataset\['train'\]"):
        read_table(datasets.DatasetDict({"train": pictures, "test": pictures}))
    with pytest.raises(DataError, match="a IterableDataset, which has no length. .* Load it without streaming=True"):
        read_table(pictures.to_iterable_dataset())


class Squares(torch.utils.data.Dataset):
    """A dataset that counts how often it is read."""

    def __init__(self, rows=5):
        self.rows = rows
        self.read = []

    def __len__(self):
        return self.rows

    def __getitem__(self, row):
        self.read.append(row)
        return {"image": np.full((2, 2), row), "label": torch.tensor(row % 2), "size": float("nan"), "text": " "}


@pytest.mark.plain  # the shape checks look at an element of a sequence, which reads another row
@pytest.mark.plain  # as above
def test_a_dataset_of_ones_own_is_read_once_for_each_row_and_not_before():
    dataset = Squares()
    table = read_table(dataset)
    assert dataset.read == [0]

    row = table.take([3, 4]).rows[0]

    assert dataset.read == [0, 3]
    assert row["image"].tolist() == [[3, 3], [3, 3]]
    assert (row["label"], row["size"], row["text"]) == (1, None, None)
    assert table.classes("label") == ["0", "1"]


@pytest.mark.plain  # as above
def test_the_columns_of_a_batch_are_of_one_reading_and_the_next_epoch_reads_anew():
    dataset = Squares()
    table = read_table(dataset)

    for _ in range(2):
        for column in table.columns:
            table.cells([2, 1], column)

    assert dataset.read == [0, 2, 1, 2, 1]


@pytest.mark.plain  # as above
def test_a_whole_column_can_come_from_the_dataset_itself():
    class Labelled(Squares):
        def column(self, name):
            return [row % 2 for row in range(5)] if name == "label" else None

    dataset = Labelled()
    table = read_table(dataset)

    assert table.column("label") == [0, 1, 0, 1, 0]
    assert table.statistics("label")["mean"] == 0.4
    assert dataset.read == [0]
    assert len(table.column("image")) == 5


@pytest.mark.plain  # as above
def test_a_batch_does_not_ask_for_a_whole_column():
    class Whole(Squares):
        asked = ()

        def column(self, name):
            self.asked = (*self.asked, name)
            return [self[row][name] for row in range(5)]

    dataset = Whole()
    table = read_table(dataset)

    assert [cell.tolist() for cell in table.cells([3, 1], "image")] == [[[3, 3]] * 2, [[1, 1]] * 2]
    assert dataset.asked == () and dataset.read == [0, 3, 1]
    assert table.take([1, 3]).classes("label") == ["1"]
    assert dataset.asked == ("label",)


def test_to_look_for_a_modality_does_not_read_the_dataset():
    dataset = Squares(1000)

    load_batches(read_table(dataset), model_of({}, image=Number()), train=True)

    assert len(dataset.read) < 100


class Broken(Squares):
    """One that fails in three ways."""

    def __getitem__(self, row):
        return {0: {"a": 1}, 1: {"a": 1, "b": 2}, 2: (1, 2)}[row] if row < 3 else 1 / 0


@pytest.mark.plain
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (1, r"Item 1 of the Broken has \['a', 'b'\]. Expected \['a'\], as item 0 has. Give every item the same keys"),
        (2, "Item 2 of the Broken is a tuple. Expected a mapping from column to cell. Wrap the dataset in one"),
        (3, "Item 3 of the Broken cannot be read: ZeroDivisionError: division by zero"),
    ],
)
def test_an_item_that_is_no_row_is_named(row, message):
    with pytest.raises(DataError, match=message):
        read_table(Broken()).cell(row, "a")


@pytest.mark.plain
def test_an_empty_dataset_is_refused():
    with pytest.raises(DataError, match="the Squares has no rows"):
        read_table(Squares(0))
