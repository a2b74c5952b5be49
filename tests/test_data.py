"""From files to batches: order, padding, absence, and files that cannot be read."""

import warnings

import pytest
import torch
from tiny_data import make_model, write_rows

from mmfuse.data import DataError, TableDataset, collate, load_batches, read_table
from mmfuse.training import fit


def ids(batches):
    """What tells the rows of a batch apart: their sounds, and their order."""
    return [batch.inputs["audio"].values.sum(dim=1) for batch in batches]


def test_a_batch_holds_what_the_rows_hold(tmp_path):
    table = read_table(write_rows(tmp_path))
    model = make_model()

    (batch,) = load_batches(table, model, batch_size=12)

    for name in ("image", "audio", "text"):
        expected = [cell is not None for cell in table.column(name)]
        assert batch.inputs[name].present.tolist() == expected
    assert batch.inputs["image"].values.shape == (12, 3, 16, 16)
    assert batch.inputs["image"].mask is None
    lengths = [0 if cell is None else 1600 + 160 * (i % 4) for i, cell in enumerate(table.column("audio"))]
    assert batch.inputs["audio"].mask.sum(dim=1).tolist() == lengths
    assert batch.inputs["text"].values.dtype == torch.int64
    assert batch.targets["kind"].values.tolist() == [0, 1, 2] * 4
    assert batch.targets["size"].known.tolist() == [cell is not None for cell in table.column("size")]
    assert model(batch).predictions["kind"].isfinite().all()


def test_samples_can_be_collated_by_hand(tmp_path):
    table = read_table(write_rows(tmp_path))
    model = make_model()
    dataset = load_batches(table, model).dataset

    blanks = {name: task.blank() for name, task in model.tasks.items()}
    batch = collate([dataset[row] for row in (2, 3, 4)], dataset.transforms, blanks)

    (expected,) = load_batches(table.take([2, 3, 4]), model)
    leaves = torch.utils._pytree.tree_leaves
    torch.testing.assert_close(leaves(batch), leaves(expected), rtol=0, atol=0)


def test_a_modality_that_no_row_has_is_blank_and_absent(tmp_path):
    table = read_table(write_rows(tmp_path)).take([2, 8])  # without sound
    model = make_model().eval()

    (batch,) = load_batches(table, model)

    assert not batch.inputs["audio"].present.any()
    assert model(batch).predictions["size"].isfinite().all()


def test_the_order_is_a_function_of_seed_and_epoch_whatever_the_workers(tmp_path):
    table = read_table(write_rows(tmp_path))
    model = make_model()
    alone, helped, again = (
        load_batches(table, model, train=True, batch_size=4, seed=1, workers=workers) for workers in (0, 2, 0)
    )

    first, second = list(alone), list(alone)
    helped.epoch = 1

    assert not torch.equal(torch.cat(ids(first)), torch.cat(ids(second)))
    for batch, other in zip(second, helped, strict=True):
        assert torch.equal(batch.inputs["image"].values, other.inputs["image"].values)  # random crops included
        assert torch.equal(batch.targets["kind"].values, other.targets["kind"].values)
    assert torch.equal(torch.cat(ids(first)), torch.cat(ids(again)))


def test_a_pass_that_begins_before_another_ends_does_not_change_it(tmp_path):
    model = make_model()
    batches = load_batches(read_table(write_rows(tmp_path)), model, train=True, batch_size=3)
    expected = list(batches)
    batches.epoch = 0

    found = [batch for batch, _ in zip(batches, batches, strict=True)]

    for batch, other in zip(found, expected, strict=True):
        assert torch.equal(batch.inputs["image"].values, other.inputs["image"].values)


def test_reading_leaves_the_global_generator_alone(tmp_path):
    batches = load_batches(read_table(write_rows(tmp_path)), make_model(), train=True)
    torch.manual_seed(5)
    expected = torch.rand(1)

    torch.manual_seed(5)
    list(batches)

    assert torch.equal(torch.rand(1), expected)


def test_the_cache_changes_nothing(tmp_path):
    table = read_table(write_rows(tmp_path))
    model = make_model()

    plain, cached = (list(load_batches(table, model, cache=cache, batch_size=5)) for cache in (False, True))

    for batch, other in zip(plain, cached, strict=True):
        for name, given in batch.inputs.items():
            assert torch.equal(given.values, other.inputs[name].values)


@pytest.mark.plain
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("column", "spoil", "message"),
    [
        ("image", lambda path: path.unlink(), r"train.csv line 2, column 'image': file .*0.png'?: no such file"),
        ("image", lambda path: path.write_bytes(path.read_bytes()[:60]), "column 'image': file .*0.png.* damaged"),
        ("audio", lambda path: path.write_bytes(b""), r"column 'audio': file .*0.wav: .* empty \(0 bytes\)"),
    ],
)
def test_an_unreadable_file_is_named_with_row_and_column(tmp_path, workers, column, spoil, message):
    table = read_table(write_rows(tmp_path))
    spoil(tmp_path / table.rows[0][column])

    with pytest.raises(DataError, match=message) as caught:
        list(load_batches(table, make_model(), workers=workers))

    assert "Traceback" not in str(caught.value)
    assert "on_error='absent'" in str(caught.value)


@pytest.mark.plain
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_can_be_absent_and_are_counted(tmp_path, workers):
    table = read_table(write_rows(tmp_path))
    (tmp_path / "0.png").unlink()
    (tmp_path / "5.wav").write_bytes(b"RIFFbroken")
    model = make_model()

    batches = load_batches(table, model, on_error="absent", workers=workers, batch_size=12)
    (batch,) = batches

    assert not batch.inputs["image"].present[0]
    assert not batch.inputs["audio"].present[5]
    assert batches.dataset.dropped == [
        "train.csv line 2, column 'image' 0.png",
        "train.csv line 7, column 'audio' 5.wav",
    ]
    with pytest.warns(UserWarning, match="2 cells could not be read and counted as absent: train.csv line 2, column"):
        fit(model, batches, epochs=1, progress=False)


def test_every_row_of_an_unreadable_file_is_counted_with_a_cache_too(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"RIFFbroken")
    rows = [{"image": "bad.png", "audio": None, "text": "red apple"}] * 3
    model = make_model()

    batches = load_batches(read_table(rows, root=tmp_path), model, on_error="absent", max_errors=1.0, cache=True)
    for _ in range(2):
        list(batches)

    assert len(batches.dataset.dropped) == 3


@pytest.mark.plain
@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"image": ["a.png", "b.png"]},
            "'image': The image is a list. Expected a path, bytes, a PIL image",
        ),
        ({"text": ["a", "b"]}, r"'text': The text is a list: \['a', 'b'\]. Expected a string"),
        ({"size": ["1", "2"]}, r"'size': label \['1', '2'\] is not a finite number. Expected one such as 3.5"),
    ],
)
def test_a_list_where_one_thing_belongs_is_refused(row, message, cache):
    table = read_table([{"image": None, "audio": None, "text": None} | row])

    with pytest.raises(DataError, match=message):
        list(load_batches(table, make_model(), cache=cache))


def test_nothing_is_said_where_nothing_was_dropped(tmp_path):
    model = make_model()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, load_batches(read_table(write_rows(tmp_path)), model), epochs=1, progress=False)


@pytest.mark.plain
def test_what_cannot_be_loaded_is_refused_before_anything_is_read(tmp_path):
    path = write_rows(tmp_path)
    model = make_model()
    table = read_table(path)
    path.write_text(path.read_text().replace("kind1", "kind9", 1))

    with pytest.raises(DataError, match=r"line 3, column 'kind': label 'kind9' is not a class. Expected one of the 3"):
        load_batches(read_table(path), model)
    with pytest.raises(
        DataError, match=r"To predict, labels are not needed: read_table\(..., columns={'kind': None}\)"
    ):
        load_batches(read_table(path), model)
    with pytest.raises(DataError, match="has no column 'kind'"):
        load_batches(read_table(path, columns={"label": "kind"}), model, train=True)
    with pytest.raises(DataError, match="column 'kind' has no label. Expected at least one to train on"):
        load_batches(read_table(path, columns={"a": "kind", "kind": None}), model, train=True)
    with pytest.raises(DataError, match=r"has no column 'audio'.* read_table\(..., columns={'audio': 'its name'}\)"):
        load_batches(read_table(path, columns={"sound": "audio"}), model)
    with pytest.raises(ValueError, match="TableDataset got on_error='leave'. Expected one of"):
        load_batches(table, model, on_error="leave")
    with pytest.raises(ValueError, match="Loader got batch_size=0. Expected a number above 0"):
        load_batches(table, model, batch_size=0)
    with pytest.raises(ValueError, match="unknown modality 'imgae'.* Did you mean 'image'"):
        load_batches(table, model, transforms={"imgae": None})


@pytest.mark.plain
def test_an_address_is_not_opened(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("image,audio,text\nhttp://example.com/a.png,,hello\n")
    model = make_model()

    with pytest.raises(DataError, match="is an address. Expected the path of a file. Download it first"):
        list(load_batches(read_table(path), model))


def test_a_dataset_can_be_read_row_by_row(tmp_path):
    table = read_table(write_rows(tmp_path))
    model = make_model()
    transforms = {name: encoder.transform() for name, encoder in model.encoders.items()}

    sample = TableDataset(table, transforms, model.tasks)[4]

    assert sample.inputs["image"] is None
    assert sample.inputs["text"].dim() == 1
    assert sample.targets["kind"].item() == 1
