"""What cannot be read: an error, an absent modality or a row that counts for nothing; and the budget for both."""

import csv
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import make_model, write_rows
from tiny_loader import Number, model_of

from mmfuse.data import DataError, Sample, TableDataset, load_batches, read_table
from mmfuse.data.transforms import Augment
from mmfuse.evaluation import evaluate, predict
from mmfuse.training import fit


def spoiled_files(folder, rows=200):
    """200 rows; a JPEG breaks off, a PNG is empty, a file is missing, and a WAV has a broken header."""
    (folder / "files").mkdir()
    with warnings.catch_warnings():
        write_rows(folder / "files", rows=6)
    cells = [[f"files/{i % 3}.png", f"files/{i % 2}.wav", "red apple", f"kind{i % 3}"] for i in range(rows)]
    whole = (folder / "files" / "0.png").read_bytes()
    for row, name, data in ((20, "cut.png", whole[:60]), (50, "empty.png", b""), (90, "missing.png", None)):
        if data is not None:
            (folder / "files" / name).write_bytes(data)
        cells[row][0] = f"files/{name}"
    (folder / "files" / "broken.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVEjunk")
    cells[150][1] = "files/broken.wav"
    with (folder / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "audio", "text", "kind"], *cells])
    return read_table(folder / "t.csv")


BAD = {20: ("image", "cut.png"), 50: ("image", "empty.png"), 90: ("image", "missing.png"), 150: ("audio", "broken.wav")}


@pytest.mark.plain
@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_bad_file_stops_the_run_within_its_batch(tmp_path, workers):
    table = spoiled_files(tmp_path)

    for row, (modality, name) in BAD.items():
        rows = [row - 2, row - 1, row, row + 1]
        batches = iter(load_batches(table.take(rows), make_model(), batch_size=2, workers=workers))
        next(batches)
        with pytest.raises(
            DataError,
            match=rf"t.csv line {row + 2}, column '{modality}': file .*{name}.* Or pass on_error='absent' to go on",
        ):
            next(batches)


@pytest.mark.plain
def test_the_first_bad_row_of_a_batch_is_told_though_files_are_looked_up_before_they_are_read(tmp_path):
    table = spoiled_files(tmp_path)

    with pytest.raises(DataError, match=r"t.csv line 22, column 'image': file .*cut.png"):
        list(load_batches(table.take([19, 20, 90]), make_model()))  # the last one is missing


@pytest.mark.plain
@pytest.mark.parametrize("workers", [0, 2])
def test_rows_with_a_bad_file_count_for_nothing_and_are_reported_with_reasons(tmp_path, workers):
    table = spoiled_files(tmp_path)
    model = make_model()

    loader = load_batches(
        table, model, on_error="skip", max_errors=0.03, batch_size=16, workers=workers, cache=workers == 0
    )
    batches = list(loader)

    assert len(batches) == 13 and sum(len(batch.targets["kind"].known) for batch in batches) == 200
    for name in ("image", "audio", "text"):
        present = torch.cat([batch.inputs[name].present for batch in batches])
        assert (~present).nonzero().flatten().tolist() == list(BAD)
    assert (~torch.cat([batch.targets["kind"].known for batch in batches])).nonzero().flatten().tolist() == list(BAD)
    report = loader.dataset.report
    assert report.rows == list(BAD)
    assert [(p.row, p.modality) for p in sorted(report.problems, key=lambda p: p.row)] == [
        (row, modality) for row, (modality, _) in BAD.items()
    ]
    for row, (modality, name) in BAD.items():
        assert f"t.csv line {row + 2}, column '{modality}' files/{name}" in report.dropped
        assert f"files/{name}: " in str(report)
    assert "no such file" in str(report)


@pytest.mark.plain
@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_files_stop_the_run(tmp_path, workers):
    loader = load_batches(spoiled_files(tmp_path), make_model(), on_error="skip", workers=workers, batch_size=25)

    with pytest.raises(DataError, match=r"t.csv: 3 of 200 rows could not be read, more than max_errors allows \(2\)"):
        list(loader)


def test_a_skipped_row_moves_neither_loss_nor_weights(tmp_path):
    path = write_rows(tmp_path, rows=6)
    whole = read_table(path)
    (tmp_path / "0.png").rename(tmp_path / "other.png")
    bad = load_batches(read_table(path), make_model(), on_error="skip", batch_size=6)

    with pytest.warns(UserWarning, match="1 rows could not be read and counted for nothing: train.csv line 2, column"):
        report = evaluate(make_model().eval(), bad)

    expected = evaluate(make_model().eval(), load_batches(whole.take(range(1, 6)), make_model()))
    for name, task in report.tasks.items():
        assert task.loss == pytest.approx(expected.tasks[name].loss, abs=1e-6)
        assert len(task.labels) == len(expected.tasks[name].labels)


@pytest.mark.plain
def test_a_skipped_row_has_no_answer(tmp_path):
    path = write_rows(tmp_path, rows=6)
    (tmp_path / "1.wav").unlink()

    with pytest.warns(UserWarning, match="1 rows could not be read and counted for nothing"):
        rows = predict(make_model(), load_batches(read_table(path), make_model(), on_error="skip"))

    assert rows[1]["kind_predicted"] is None and rows[1]["size_predicted"] is None
    assert rows[1]["text"] == "green leaf"
    assert all(row["kind_predicted"] is not None for i, row in enumerate(rows) if i != 1)


@pytest.mark.plain
def test_a_run_warns_once_of_training_and_once_of_validation(tmp_path):
    path = write_rows(tmp_path)
    (tmp_path / "0.png").unlink()
    model = make_model()
    train, validation = (load_batches(read_table(path), model, on_error="absent", batch_size=6) for _ in range(2))

    with pytest.warns(UserWarning) as told:
        history = fit(model, train, validation, epochs=3, progress=False)

    assert [str(warning.message)[:60] for warning in told] == [
        "1 cells could not be read and counted as absent: train.csv l"
    ] * 2
    assert all(0 <= share <= 1 for share in history["wait_share"])


class Given(Number):
    """The array that stands in the cell."""

    padding = 0.0

    def __call__(self, value):
        return torch.as_tensor(value, dtype=torch.float32)


def sequences(**cells):
    rows = [{"x": np.ones((3 + i, 2), dtype=np.float32), "y": "ab"[i % 2]} for i in range(4)]
    for row, cell in cells.items():
        rows[int(row[1:])]["x"] = cell
    return read_table(rows)


class Pair(Given):
    def blank(self):
        return torch.zeros(1, 2)


@pytest.mark.plain
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_line_and_their_count(workers, value):
    bad = np.ones((4, 2), dtype=np.float32)
    bad[1:3, 0] = value

    with pytest.raises(
        DataError, match="row 2 of the list, column 'x': 2 of 8 values are NaN or infinite. Expected finite"
    ):
        list(load_batches(sequences(_2=bad), model_of(x=Pair()), workers=workers))


def test_values_that_are_not_finite_may_be_absent_skipped_or_let_through():
    bad = np.ones((4, 2), dtype=np.float32)
    bad[1, 0] = np.nan
    table = sequences(_2=bad)

    absent, skipped, through = (
        next(iter(load_batches(table, model_of(x=Pair()), **how)))
        for how in ({"on_error": "absent"}, {"on_error": "skip"}, {"check_finite": False})
    )

    assert absent.inputs["x"].present.tolist() == [True, True, False, True]
    assert not absent.inputs["x"].mask[2].any() and absent.targets["y"].known.all()
    assert absent.inputs["x"].zeroed().values.isfinite().all()
    assert skipped.targets["y"].known.tolist() == [True, True, False, True]
    assert through.inputs["x"].present.all() and through.inputs["x"].values.isnan().sum() == 1


class Samples(list, torch.utils.data.Dataset):
    """Samples that somebody else has made."""


def test_what_a_transform_promises_to_be_finite_is_believed_of_what_it_has_made_alone():
    class Promised(Pair):
        finite = True

    bad = torch.tensor([[1.0, torch.nan]])

    (batch,) = load_batches(sequences(_1=bad.numpy()), model_of({}, x=Promised()))
    assert batch.inputs["x"].values.isnan().sum() == 1
    with pytest.raises(DataError, match="1 of 2 values are NaN"):
        list(load_batches(Samples([Sample({"x": bad}, {})]), model_of({}, x=Promised())))


def test_large_values_whose_sum_overflows_are_finite():
    table = sequences(_1=np.full((3, 2), 3e38, dtype=np.float32))

    (batch,) = load_batches(table, model_of(x=Pair()))

    assert batch.inputs["x"].present.all()


@pytest.mark.plain
def test_a_tensor_of_another_shape_is_named():
    with pytest.raises(
        DataError, match=r"row 1 of .*column 'x': The transform gave steps of shape \(3,\). Expected \(2,\)"
    ):
        list(load_batches(sequences(_1=np.ones((4, 3))), model_of(x=Pair())))


class Odd(Number):
    """Fails for odd numbers."""

    def __call__(self, value):
        if int(value) % 2:
            raise ValueError("It is odd.")
        return super().__call__(value)


def test_reasons_are_kept_for_the_first_hundred_and_rows_for_all():
    table = read_table([{"x": i} for i in range(600)])
    loader = load_batches(table, model_of({}, x=Odd()), on_error="absent")

    for _ in range(2):
        list(loader)

    report = loader.dataset.report
    assert len(report.problems) == 100
    assert report.rows == list(range(1, 600, 2))
    assert str(report).endswith("and 200 more")
    assert report.news().endswith("and 295 more.")
    assert report.news() == ""


@pytest.mark.plain
def test_at_least_one_row_may_be_bad_and_a_budget_is_a_share():
    table = read_table([{"x": 0}, {"x": 1}, {"x": 2}, {"x": 3}])

    assert len(list(load_batches(table.take([0, 1]), model_of({}, x=Odd()), on_error="skip"))) == 1
    with pytest.raises(
        DataError, match=r"2 of 4 rows could not be read, more than max_errors allows \(1\). The first: "
    ):
        list(load_batches(table, model_of({}, x=Odd()), on_error="skip"))
    with pytest.raises(DataError, match=r"more than max_errors allows \(1\)"):
        list(load_batches(table, model_of({}, x=Odd()), on_error="absent", max_errors=0.0))
    assert len(list(load_batches(table, model_of({}, x=Odd()), on_error="skip", max_errors=1.0))) == 1
    with pytest.raises(
        ValueError,
        match="TableDataset got max_errors=1.5. Expected a share of the rows from 0 to 1",
    ):
        load_batches(table, model_of({}, x=Odd()), max_errors=1.5)


def test_a_single_sample_of_a_skipped_row_is_empty():
    table = read_table([{"x": 1, "y": "a"}, {"x": 2, "y": "b"}])

    dataset = TableDataset(table, {"x": Odd()}, model_of().tasks, on_error="skip")

    assert dataset[0].inputs == {"x": None} and dataset[0].targets == {"y": None}
    assert dataset[1].targets["y"].item() == 1


@pytest.mark.plain
def test_the_end_of_a_message_says_what_else_can_be_done_and_mends_nothing_twice():
    class Mended(Odd):
        def __call__(self, value):
            raise ValueError("It is odd. Expected even. Mend the cell")

    with pytest.raises(
        DataError,
        match="Mend the cell. Or pass on_error='absent' to go on without it, or on_error='skip' to leave out the row; "
        "both are counted.$",
    ):
        list(load_batches(read_table([{"x": 1}]), model_of({}, x=Mended())))


class Gives(Number):
    """Gives something else than a tensor in one row."""

    def __init__(self, wrong):
        self.wrong = wrong

    def __call__(self, value):
        return self.wrong if int(value) == 2 else torch.ones(1)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, r"The transform gave None. Expected a Tensor. Does it return its result\?"),
        (np.ones(1), "The transform gave a ndarray. Expected a Tensor. Use torch.from_numpy."),
        (Image.new("L", (2, 2)), "The transform gave a Image. Expected a Tensor. Use an ImageTransform"),
        ([1.0], "The transform gave a list. Expected a Tensor. Make one of it with torch.tensor"),
        (torch.ones(1, dtype=torch.uint8), "The transform gave torch.uint8. Expected torch.float32, as its blank has"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_transform_that_gives_no_tensor_is_a_problem_of_its_row(wrong, message, together):
    transform = Gives(wrong)
    if together:
        transform.batch = lambda values: ([transform(value) for value in values], [0] * len(values))
    table = read_table([{"x": i} for i in range(4)])

    with pytest.raises(DataError, match=f"2.*, column 'x': {message}"):
        list(load_batches(table, model_of({}, x=transform)))
    (batch,) = load_batches(table, model_of({}, x=transform), on_error="absent")
    assert batch.inputs["x"].present.tolist() == [True, True, False, True]
    assert batch.inputs["x"].values.dtype == torch.float32


@pytest.mark.plain
def test_a_step_that_forgets_to_return_is_named():
    class Forgets:
        def __call__(self, tensor):
            tensor.mul_(2)

    with pytest.raises(DataError, match="column 'x': The step Forgets gave None. Expected a Tensor. Does it return"):
        list(load_batches(read_table([{"x": 1}]), model_of({}, x=Augment(Number(), [Forgets(), Forgets()]))))


@pytest.mark.plain
def test_more_than_half_of_the_rows_are_not_taken_for_absent_unless_asked():
    class Missing(Number):
        def __call__(self, value):
            raise ValueError("no such file")

    table, model = read_table([{"x": i} for i in range(20)]), model_of({}, x=Missing())

    with pytest.raises(DataError, match=r"of 20 rows could not be read, more than max_errors allows \(10\)"):
        list(load_batches(table, model, on_error="absent", batch_size=4))
    assert len(list(load_batches(table, model, on_error="absent", batch_size=4, max_errors=1.0))) == 5
    with pytest.raises(ValueError, match=r"max_errors=5. Expected a share .* or 1.0 for no limit"):
        load_batches(table, model, on_error="absent", max_errors=5)
