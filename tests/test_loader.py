"""Batches read as a whole, in any number of workers; workers that die or hang; datasets of one's own."""

import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time
import traceback

import numpy as np
import psutil
import pytest
import torch
from tiny_data import make_model, write_rows
from tiny_loader import Letters, Number, model_of
from torch.utils.data import DataLoader, Dataset

from mmfuse import Batch
from mmfuse.data import DataError, Sample, TableDataset, load_batches, read_table
from mmfuse.data.transforms import FeatureTransform
from mmfuse.tasks import Classification, MultiLabel, Regression


def rows_of(count):
    return [{"x": str(i), "text": "abcdefgh"[: i % 7 + 1], "y": "ab"[i % 2]} for i in range(count)]


def same(first, second):
    """Every tensor of two batches is equal, bit for bit."""
    torch.testing.assert_close(
        torch.utils._pytree.tree_leaves(first), torch.utils._pytree.tree_leaves(second), rtol=0, atol=0
    )


class Noise(Number):
    """Draws from every global generator."""

    random = True

    def __call__(self, value):
        return torch.tensor([float(value), torch.rand(()).item(), np.random.random(), random.random()])

    def blank(self):
        return torch.zeros(4)


class OnRow(Number):
    """Does something terrible in one row."""

    def __init__(self, row, act):
        self.row, self.act = row, act

    def __call__(self, value):
        if int(value) == self.row:
            self.act()
        return super().__call__(value)


def test_a_dataset_gives_whole_batches_to_a_plain_data_loader():
    table = read_table(rows_of(7))
    model = model_of(x=Number(), text=Letters())
    dataset = TableDataset(table, {name: e.transform(False) for name, e in model.encoders.items()}, model.tasks)

    found = list(DataLoader(dataset, batch_size=3, collate_fn=lambda batch: batch))

    assert [len(batch.inputs["x"].present) for batch in found] == [3, 3, 1]
    for batch, expected in zip(found, load_batches(table, model, batch_size=3), strict=True):
        assert isinstance(batch, Batch)
        same(batch, expected)
    with pytest.raises(ValueError, match=r"TableDataset got rows of the epochs \[0, 1\]. Expected rows of one"):
        dataset.__getitems__([(0, 1), (1, 1)])


@pytest.mark.plain
def test_any_whole_number_is_a_seed_and_there_are_no_negative_workers():
    table, model = read_table(rows_of(5)), model_of(x=Number())

    assert len(list(load_batches(table, model, train=True, seed=2**70, batch_size=2))) == 3
    for name in ("workers", "timeout"):
        with pytest.raises(ValueError, match=f"Loader got {name}=-1. Expected 0 or more"):
            load_batches(table, model, **{name: -1})


def test_a_row_may_be_counted_from_the_end():
    dataset = TableDataset(read_table(rows_of(5)), {"text": Letters()}, {"y": Classification(4, ["a", "b"])})

    assert torch.equal(dataset[-1].inputs["text"], dataset[4].inputs["text"])
    assert dataset[-2].targets["y"] == 1
    with pytest.raises(IndexError):
        dataset[-6]


def test_a_single_sample_is_the_one_of_its_batch():
    table = read_table([{"x": "1", "text": "abcdefg", "y": "b"}, {"x": "nan ", "text": None, "y": None}])
    model = model_of(x=Number(), text=Letters())

    dataset = load_batches(table, model, on_error="absent").dataset
    first, second = dataset[0], dataset[1]

    assert first.inputs["x"].tolist() == [1.0] and first.inputs["text"].tolist() == [97, 98, 99, 100, 101]
    assert first.targets["y"] == 1
    assert second.inputs == {"x": None, "text": None} and second.targets == {"y": None}
    with pytest.raises(DataError, match=r"row 1 of the \w+, column 'x': 1 of 1 values are NaN or infinite"):
        load_batches(table, model).dataset[1]


def test_the_values_of_a_batch_come_in_one_call():
    letters = Letters()

    (batch,) = load_batches(
        read_table([{"text": "abc"}, {"text": None}, {"text": "abcdefg"}]), model_of({}, text=letters)
    )

    assert letters.calls == [["abc", "abcdefg"]]
    assert batch.inputs["text"].values.tolist() == [[97, 98, 99, 0, 0], [0] * 5, [97, 98, 99, 100, 101]]
    assert batch.inputs["text"].mask.sum(dim=1).tolist() == [3, 0, 5]


@pytest.mark.plain
def test_a_bad_value_in_a_call_for_many_is_still_named():
    table = read_table([{"text": "abc"}, {"text": "bad"}, {"text": "abcdefg"}])

    with pytest.raises(DataError, match="row 1 of the list, column 'text': The text is bad. Expected a good one"):
        list(load_batches(table, model_of({}, text=Letters())))
    batches = load_batches(table, model_of({}, text=Letters()), on_error="absent")
    (batch,) = batches
    assert batch.inputs["text"].present.tolist() == [True, False, True]
    assert batches.dataset.dropped == ["row 1 of the list, column 'text' bad"]


def test_the_cache_asks_a_call_for_many_only_for_what_is_new():
    letters = Letters()
    batches = load_batches(
        read_table([{"text": t} for t in ("a", "b", "a", "c")]), model_of({}, text=letters), cache=True, batch_size=2
    )

    first, second = list(batches), list(batches)

    assert letters.calls == [["a", "b"], ["c"]]
    same(first, second)


def test_what_is_cut_off_is_counted_once_however_many_epochs_and_told_once():
    table = read_table([{"text": t} for t in ("abc", "abcdefg", "abcdef", None)])
    batches = load_batches(table, model_of({}, text=Letters()), batch_size=2)

    for _ in range(2):
        list(batches)

    assert vars(batches.dataset.report.truncated["text"]) == {"samples": 2, "steps": 3}
    assert "2 values of 'text' were too long and lost 3 steps at their end" in batches.dataset.report.news()
    assert batches.dataset.report.news() == ""


@pytest.mark.parametrize("order", [None, [4, 1, 3]])
def test_rows_of_a_column_that_is_an_array_are_those_of_single_reading(order):
    features = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    table = read_table({"x": features, "y": ["a", "b"] * 3})
    table = table if order is None else table.take(order)
    transform = FeatureTransform(4, sequence=True)

    (batch,) = load_batches(table, model_of(x=transform))

    rows = range(6) if order is None else order
    assert torch.equal(batch.inputs["x"].values, features[list(rows)])
    assert batch.inputs["x"].mask.all() and batch.inputs["x"].present.all()
    dataset = TableDataset(table, {"x": transform}, {})
    assert torch.equal(dataset[1].inputs["x"], batch.inputs["x"].values[1])


@pytest.mark.plain
def test_the_row_of_an_array_that_cannot_be_read_is_named():
    features = torch.ones(6, 4)
    features[3, 1] = torch.nan

    with pytest.raises(DataError, match=r"row 3 of the \w+, column 'x': The features have 1 of 4 values that are NaN"):
        list(load_batches(read_table({"x": features}), model_of({}, x=FeatureTransform(4))))


class TwoColumns(Number):
    columns = ("left", "right")

    def __call__(self, value):
        return torch.tensor([float(value[name] or 0) for name in self.columns])

    def blank(self):
        return torch.zeros(2)


@pytest.mark.plain
def test_several_columns_are_one_modality_absent_where_all_are_empty():
    table = read_table([{"left": "1", "right": None}, {"left": None, "right": None}, {"left": "2", "right": "x"}])

    (batch,) = load_batches(table.take([0, 1]), model_of({}, pair=TwoColumns()))

    assert batch.inputs["pair"].present.tolist() == [True, False]
    assert batch.inputs["pair"].values.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    with pytest.raises(DataError, match=r"row 2 of .*columns 'left', 'right': could not convert string to float"):
        list(load_batches(table, model_of({}, pair=TwoColumns())))
    with pytest.raises(DataError, match="has no column 'right'"):
        load_batches(read_table([{"left": "1"}]), model_of({}, pair=TwoColumns()))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # on fewer cores
@pytest.mark.parametrize("workers", [1, 4])
def test_all_that_is_random_is_the_same_in_any_number_of_workers(workers):
    table = read_table(rows_of(20))
    alone, helped = (
        load_batches(table, model_of(x=Noise()), train=True, batch_size=3, seed=4, workers=n) for n in (0, workers)
    )
    for _ in range(2):
        expected = list(alone)
        same(expected, list(helped))

    values = torch.cat([batch.inputs["x"].values for batch in expected])
    assert all(len(values[:, column].unique()) == 20 for column in range(4))


def test_modalities_of_a_row_draw_different_numbers():
    table = read_table([{"left": str(i), "right": str(i)} for i in range(9)])

    (batch,) = load_batches(table, model_of({}, left=Noise(), right=Noise()))

    assert (batch.inputs["left"].values[:, 1:] != batch.inputs["right"].values[:, 1:]).all()


def test_a_pass_that_lost_its_workers_to_another_one_says_so():
    batches = load_batches(read_table(rows_of(8)), model_of(x=Number()), batch_size=2, workers=1)
    first, alone = iter(batches), load_batches(read_table(rows_of(8)), model_of(x=Number()), batch_size=2)
    next(first)

    second = list(batches)

    same(second, list(alone))
    with pytest.raises(RuntimeError, match="after another has begun. Expected one pass at a time, .* workers=0"):
        next(first)


@pytest.mark.plain  # the shape checks draw from Python's generator, too
@pytest.mark.parametrize("make", [lambda t: load_batches(t, model_of(x=Noise())), lambda t: own()])
def test_reading_leaves_every_global_generator_as_it_was(make):
    batches = make(read_table(rows_of(4)))
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()

    list(batches)

    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.plain  # the shape checks draw from Python's generator, too
def test_generators_that_a_transform_does_not_ask_are_not_seeded():
    class TorchAlone(Noise):
        torch_only = True

    batches = load_batches(read_table(rows_of(4)), model_of(x=TorchAlone()), seed=3)
    random.seed(1), np.random.seed(1)
    expected = [(np.random.random(), random.random()) for _ in range(4)]
    random.seed(1), np.random.seed(1)
    state = torch.get_rng_state()

    (batch,) = batches

    assert torch.equal(torch.get_rng_state(), state)
    (seeded,) = load_batches(read_table(rows_of(4)), model_of(x=Noise()), seed=3)
    torch.testing.assert_close(batch.inputs["x"].values[:, 2:], torch.tensor(expected))
    assert torch.equal(batch.inputs["x"].values[:, :2], seeded.inputs["x"].values[:, :2])


@pytest.mark.plain
@pytest.mark.parametrize("act", ["kill", "exit"])
def test_a_worker_that_dies_names_the_row_it_was_reading(act):
    end = {"kill": lambda: os.kill(os.getpid(), signal.SIGKILL), "exit": lambda: os._exit(3)}[act]
    batches = load_batches(read_table(rows_of(20)), model_of(x=OnRow(9, end)), batch_size=4, workers=2)

    with pytest.raises(
        DataError, match=r"has ended: .* It was reading row 9 of the list \(its batch: .*row 8 .*, row 9"
    ):
        for _ in batches:
            time.sleep(0.01)  # torch's alarm may come while a batch is in use

    batches.dataset.readers["x"]._transform.row = -1
    assert len(list(batches)) == 5  # with new workers


class Blankless(Number):
    """A transform with a mistake, which is not in reading a cell."""

    def blank(self):
        raise RuntimeError("there is no blank")


@pytest.mark.plain
def test_an_error_of_a_workers_own_is_not_taken_for_a_worker_that_hangs():
    with pytest.raises(RuntimeError, match="there is no blank") as caught:
        list(load_batches(read_table(rows_of(4)), model_of(x=Blankless()), workers=1))

    assert not isinstance(caught.value, DataError)


@pytest.mark.plain
def test_a_worker_that_hangs_is_ended_in_bounded_time_and_names_its_row():
    hang = OnRow(9, lambda: time.sleep(1000))
    batches = load_batches(read_table(rows_of(20)), model_of(x=hang), batch_size=4, workers=2, timeout=1)
    before = set(psutil.Process().children())
    began = time.monotonic()

    with pytest.raises(DataError, match=r"has given nothing for 1 s. It was reading row 9 of the list \(its batch"):
        list(batches)

    assert time.monotonic() - began < 30  # quiet: 1 s and the start of the workers
    left = set(psutil.Process().children()) - before
    assert not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.plain
def test_a_run_whose_worker_hangs_ends_with_an_error_and_leaves_no_process(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys, time
        sys.path.insert(0, sys.argv[1])
        from tiny_loader import Number, model_of
        from mmfuse.data import load_batches, read_table

        class Hang(Number):
            def __call__(self, value):
                print(os.getpid(), flush=True)
                time.sleep(1000)

        for batch in load_batches(read_table([{"x": 1}, {"x": 2}]), model_of({}, x=Hang()), workers=1, timeout=1):
            pass
        """)
    )

    done = subprocess.run(
        [sys.executable, str(script), os.path.dirname(__file__)], capture_output=True, text=True, timeout=120
    )

    assert done.returncode != 0
    assert "DataError: A process that reads for the loader has given nothing for 1 s" in done.stderr
    assert "row 0 of the list" in done.stderr
    assert not psutil.pid_exists(int(done.stdout.split()[0]))


class Own(Dataset):
    """Somebody's dataset, made without a table."""

    def __init__(self, spoil=None):
        self.spoil = spoil or {}

    def __len__(self):
        return 6

    def __getitem__(self, row):
        if row in self.spoil:
            return self.spoil[row]()
        text = torch.arange(row + 1) if row % 2 else None
        noise = torch.tensor([row + torch.rand(()).item()])
        return Sample({"x": noise, "text": text}, {"y": torch.tensor(row % 2)})


def own(spoil=None, tasks=None, **how):
    return load_batches(Own(spoil), model_of(tasks, x=Number(), text=Letters()), **how)


@pytest.mark.parametrize("workers", [0, 2])
def test_anybodys_dataset_of_samples_can_be_loaded(workers):
    batches = own(train=True, batch_size=4, workers=workers, seed=3)

    first, second = list(batches), list(batches)

    rows = torch.cat([batch.inputs["x"].values for batch in first])[:, 0]
    assert sorted(rows.long().tolist()) == list(range(6))
    for batch in first:
        numbers = batch.inputs["x"].values[:, 0].long()
        assert batch.inputs["text"].present.tolist() == (numbers % 2 == 1).tolist()
        assert batch.targets["y"].values.tolist() == (numbers % 2).tolist()
    again = own(train=True, batch_size=4, seed=3)
    same(first + second, list(again) + list(again))


def test_a_plain_data_loader_may_send_a_dataset_to_its_workers():
    dataset = pickle.loads(pickle.dumps(own().dataset))

    same(dataset.__getitems__([0, 1]), own().dataset.__getitems__([0, 1]))


def bad_label(value):
    return lambda: Sample({"x": torch.zeros(1)}, {"y": value})


def raise_(error):
    raise error


@pytest.mark.plain
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: raise_(KeyError("lost")), "Own sample 4: KeyError: 'lost'. Or pass"),
        (
            lambda: {"x": 1},
            r"sample 4: .* It is a dict. Expected a mmfuse.data.Sample\(inputs, .*read_table\(dataset\)",
        ),
        (
            lambda: Sample({"xx": torch.zeros(1)}, {}),
            "sample 4: .*Sample.inputs: unknown modality 'xx'.*Did you mean 'x'",
        ),
        (lambda: Sample({}, {"z": torch.zeros(1)}), "sample 4: .*Sample.targets: unknown task 'z'"),
        (
            lambda: Sample({"x": torch.zeros(2)}, {}),
            r"sample 4, 'x': .* gave shape \(2,\). Expected \(1,\), as its blank",
        ),
        (bad_label(torch.tensor([1])), r"sample 4: label of 'y': It has shape \(1,\). Expected \(\)"),
        (bad_label("happy"), "Own sample 4: label of 'y': It is a str: 'happy'. Expected a number, .* task.encode"),
        (bad_label(0.5), "Own sample 4: label of 'y': It is torch.float32. Expected torch.int64, .* a whole number"),
        (bad_label(torch.tensor(-100)), r"Own sample 4, label of 'y': label -100 is not a class. Expected 0 to 1 \(2"),
        (bad_label(torch.tensor(7)), "Own sample 4, label of 'y': label 7 is not a class. Expected 0 to 1"),
    ],
)
def test_a_sample_that_is_wrong_is_named(made, message):
    with pytest.raises(DataError, match=message):
        list(own({4: made}))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("task", "value", "message"),
    [
        (MultiLabel(4, ["a", "b"]), torch.tensor([3.0, 0.0]), "label 3.0 of 2 yes-or-no labels. Expected 0 or 1"),
        (Regression(4), torch.tensor(torch.inf), "a label is NaN or infinite. Expected finite numbers"),
        (Classification(4, 2), torch.tensor(1.0), "a label is torch.float32. Expected integers from 0 to 1"),
    ],
)
def test_labels_that_are_wrong_in_an_own_dataset_are_named(task, value, message):
    class Labelled(Own):
        def __getitem__(self, row):
            return Sample({"x": torch.zeros(1)}, {"y": value if row == 4 else None})

    if value.dtype.is_floating_point and isinstance(task, Classification):
        task.blank = lambda: torch.tensor(0.0)
    with pytest.raises(DataError, match=f"Labelled sample 4, label of 'y': {message}"):
        list(load_batches(Labelled(), model_of({"y": task}, x=Number())))


@pytest.mark.plain
def test_samples_can_be_skipped_but_not_be_absent():
    batches = own({4: lambda: raise_(KeyError("lost"))}, on_error="skip")
    (batch,) = batches

    with pytest.raises(
        DataError, match="KeyError: 'lost'. Or pass on_error='skip' to leave out the row; it is counted.$"
    ):
        list(own({4: lambda: raise_(KeyError("lost"))}))
    assert not batch.inputs["x"].present[4] and not batch.targets["y"].known[4]
    assert batches.dataset.report.rows == [4]
    with pytest.raises(ValueError, match="SampleDataset got on_error='absent'. Expected one of"):
        own(on_error="absent")
    with pytest.raises(TypeError, match="load_batches got a list. Expected a table, or a torch Dataset with a length"):
        load_batches([1, 2], model_of(x=Number()))


@pytest.mark.parametrize("label", [1, np.int32(1), torch.tensor(1, dtype=torch.int32), torch.tensor(1), True])
def test_the_label_of_a_sample_may_be_a_number(label):
    class Numbered(Own):
        def __getitem__(self, row):
            return Sample({"x": torch.zeros(1)}, {"y": label if row else None, "size": 3 if row else 0.5})

    tasks = {"y": Classification(4, ["a", "b"]), "size": Regression(4)}
    (batch,) = load_batches(Numbered(), model_of(tasks, x=Number()))

    assert batch.targets["y"].values.dtype == torch.int64
    assert batch.targets["y"].values[1:].tolist() == [1] * 5
    assert batch.targets["y"].known.tolist() == [False] + [True] * 5
    assert batch.targets["size"].values.tolist() == [0.5] + [3.0] * 5


@pytest.mark.plain
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 2.5}, "Loader got batch_size=2.5. Expected a whole number"),
        ({"batch_size": True}, "Loader got batch_size=True. Expected a whole number"),
        ({"workers": 1.0}, "Loader got workers=1.0. Expected a whole number"),
    ],
)
def test_sizes_that_are_no_whole_numbers_are_refused(setting, message):
    with pytest.raises(TypeError, match=message):
        load_batches(read_table(rows_of(4)), model_of(x=Number()), **setting)


class Bare:
    """Has nothing of a transform."""


class Half(Number):
    blank = None

    def __getattribute__(self, name):
        if name == "random":
            raise AttributeError(name)
        return super().__getattribute__(name)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (Bare(), r"of 'x' \(Bare\) lacks __call__, blank, padding, random, takes_path. Expected .* set random = False"),
        (Half(), r"of 'x' \(Half\) lacks blank, random. Expected .* give it blank\(\) -> Tensor"),
        (Number, r"of 'x' is the class Number. Expected an object of it. Write Number\(\)"),
    ],
)
def test_what_a_transform_lacks_is_said_when_the_loader_is_built(transform, message):
    for data in (read_table(rows_of(4)), Own()):
        with pytest.raises(TypeError, match=f"The transform {message}"):
            load_batches(data, model_of(x=transform))


@pytest.mark.plain
def test_a_model_that_cannot_say_how_to_read_is_refused():
    table, model = read_table(rows_of(4)), model_of(x=Number())
    model.encoders["x"] = torch.nn.Linear(1, 1)

    with pytest.raises(TypeError, match=r"encoder of 'x' \(Linear\) has no transform\(train\). .* give transforms={"):
        load_batches(table, model)
    assert len(load_batches(table, model, transforms={"x": Number()})) == 1
    with pytest.raises(TypeError, match="load_batches got a NoneType for the model. Expected a MultimodalModel"):
        load_batches(table, None)
    with pytest.raises(TypeError, match="load_batches got a model without encoders. Expected one or more"):
        load_batches(table, model_of())


class Unsendable(Exception):
    """Cannot be pickled."""

    def __init__(self, message):
        super().__init__(message)
        self.held = lambda: None


def stumble():
    raise Unsendable("over a stone")


@pytest.mark.plain
def test_the_traceback_of_a_transform_arrives_from_a_worker():
    batches = load_batches(read_table(rows_of(8)), model_of(x=OnRow(5, stumble)), batch_size=4, workers=1)

    with pytest.raises(DataError, match="column 'x': Unsendable: over a stone. Or pass") as caught:
        list(batches)

    shown = "".join(traceback.format_exception(caught.value))
    assert "in stumble" in shown and 'raise Unsendable("over a stone")' in shown


def test_rows_without_any_modality_are_counted_once_and_told_once():
    table = read_table([{"x": "1" if i == 3 else None, "text": None, "y": "ab"[i % 2]} for i in range(60)])
    batches = load_batches(table, model_of(x=Number(), text=Letters()), batch_size=16)

    for _ in range(2):
        list(batches)

    report = batches.dataset.report
    assert report.without_any_modality == [i for i in range(60) if i != 3]
    assert report.news().startswith("59 of 60 rows have no modality at all: they teach nothing but the frequency of")
    assert report.news() == ""
    assert report.rows == []


@pytest.mark.plain
def test_samples_of_which_none_has_any_modality_teach_nothing():
    nothing = {row: lambda: Sample({"x": None}, {"y": torch.tensor(0)}) for row in range(6)}

    assert len(list(own(nothing, batch_size=4))) == 2
    with pytest.raises(DataError, match="Own: no row has any modality. Expected some to train on. Do the columns"):
        list(own(nothing, batch_size=4, train=True))


def test_a_row_that_is_skipped_is_not_told_twice():
    batches = own({4: lambda: raise_(KeyError("lost"))}, on_error="skip")

    list(batches)

    assert batches.dataset.report.without_any_modality == []


def test_loaders_transforms_and_reports_say_what_they_are(tmp_path):
    model = make_model()
    loader = load_batches(read_table(write_rows(tmp_path)), model, train=True, batch_size=5)

    assert repr(loader) == ("Loader(train.csv: 12 rows, 3 batches, shuffled, modalities ['image', 'audio', 'text'])")
    assert repr(loader.dataset.report) == "<ReadReport: 0 of 12 rows with a problem>"
    assert repr(loader.dataset.transforms["image"]).startswith("ImageTransform(size=16")
