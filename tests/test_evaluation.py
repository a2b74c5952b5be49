"""Scores and answers: over all samples at once, in the order of the table."""

import json

import numpy as np
import pytest
import torch
from tiny_data import make_model, write_rows

from mmfuse import Batch, Features, Input, Target
from mmfuse.data import DataError, Mixup, Sample, load_batches, read_table
from mmfuse.data.transforms import TextTransform
from mmfuse.evaluation import evaluate, predict
from mmfuse.evaluation import write_rows as write_answers
from mmfuse.training import fit


def test_scores_do_not_depend_on_the_batches(tmp_path):
    table = read_table(write_rows(tmp_path))
    model = make_model(fusion="WeightedAverage").train()

    whole, pieces = (evaluate(model, load_batches(table, model, batch_size=size)) for size in (12, 5))

    assert whole.samples == pieces.samples == 12
    assert whole.numbers == pytest.approx(pieces.numbers, abs=1e-6)
    assert whole.weights == pytest.approx(pieces.weights, abs=1e-6)
    assert model.training  # as it was found
    assert sum(whole.weights.values()) == pytest.approx(1.0, abs=1e-6)


def test_the_numbers_are_those_of_a_loop_over_the_known_samples(tmp_path):
    table = read_table(write_rows(tmp_path))
    model = make_model().eval()

    report = evaluate(model, load_batches(table, model))

    right, losses, errors = [], [], []
    for i, row in enumerate(table.rows):
        (batch,) = load_batches(table.take([i]), model)
        output = model(batch)
        kind = int(row["kind"][-1])
        right.append(output.predictions["kind"][0].argmax().item() == kind)
        losses.append(-output.predictions["kind"][0].log_softmax(0)[kind].item())
        if row["size"] is not None:
            errors.append(abs(output.predictions["size"][0].item() * 8 + 15 - float(row["size"])))
    assert report.numbers["kind/accuracy"] == pytest.approx(np.mean(right))
    assert report.numbers["kind/loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert report.numbers["size/mae"] == pytest.approx(np.mean(errors), abs=1e-4)
    assert len(report.tasks["size"].labels) == len(errors) == 9
    assert report.numbers["loss"] == pytest.approx(report.numbers["kind/loss"] + report.numbers["size/loss"])
    assert "kind1" in str(report)
    assert "12 samples" in str(report)


def test_hiding_everything_is_counted(tmp_path):
    table = read_table(write_rows(tmp_path))
    model = make_model()

    report = evaluate(model, load_batches(table, model), hide=["image", "audio", "text"])

    assert report.without_any_modality == 12
    assert "12 of them without any modality" in str(report)


def test_answers_stand_beside_their_rows_and_can_be_written(tmp_path):
    table = read_table(write_rows(tmp_path))
    model = make_model(fusion="WeightedAverage").eval()

    rows = predict(model, load_batches(table, model, batch_size=5))
    write_answers(rows, tmp_path / "answers.csv")
    write_answers(rows, tmp_path / "answers.jsonl")

    assert [row["text"] for row in rows] == table.column("text")
    for i, row in enumerate(rows):
        probabilities = [row[f"kind_p(kind{c})"] for c in range(3)]
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-6)
        assert row["kind_probability"] == max(probabilities)
        assert row["kind_predicted"] == f"kind{int(np.argmax(probabilities))}"
        assert row["weight(audio)"] == 0.0 or table.rows[i]["audio"] is not None
    assert read_table(tmp_path / "answers.csv").column("kind_predicted") == [row["kind_predicted"] for row in rows]
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == pytest.approx(rows[0])


@pytest.mark.filterwarnings("ignore:1 of 3 rows have no modality at all")
def test_numbers_of_a_row_stand_beside_its_answers_and_arrays_do_not():
    model = make_model()
    cells = {
        "id": np.arange(3),
        "age": np.array([1.5, np.nan, 2]),
        "pixels": np.zeros((3, 4)),
        "text": ["a", None, "b"],
    }

    rows = predict(model, load_batches(read_table(cells, columns={"image": None, "audio": None}), model, batch_size=2))

    assert [row["id"] for row in rows] == [0, 1, 2]
    assert [row["age"] for row in rows] == [1.5, None, 2.0]
    assert "pixels" not in rows[0]


def test_every_part_of_a_model_is_left_as_it_was_found(tmp_path):
    table = read_table(write_rows(tmp_path))
    model = make_model().train()
    model.encoders["image"].eval()
    before = [part.training for part in model.modules()]

    evaluate(model, load_batches(table, model))

    assert [part.training for part in model.modules()] == before


def test_batches_may_have_the_labels_of_different_tasks(tmp_path):
    table = read_table(write_rows(tmp_path))
    model = make_model()
    first, second = load_batches(table, model, batch_size=6)

    report = evaluate(model, [first, Batch(second.inputs, {"kind": second.targets["kind"]})])

    assert len(report.tasks["kind"].labels) == 12
    assert report.tasks["size"].loss == pytest.approx(evaluate(model, [first]).tasks["size"].loss, abs=1e-6)


@pytest.mark.plain
@pytest.mark.parametrize("act", [evaluate, predict])
def test_what_could_not_be_read_is_told(tmp_path, act):
    table = read_table(write_rows(tmp_path))
    (tmp_path / "0.png").unlink()
    model = make_model()

    with pytest.warns(UserWarning, match="1 cells could not be read and counted as absent: .* 'image' 0.png") as told:
        act(model, load_batches(table, model, on_error="absent"))

    assert told[0].filename == __file__


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_no_answer(tmp_path, workers):
    table = read_table(write_rows(tmp_path))
    model = make_model()

    rows = predict(model, load_batches(table, model, batch_size=5, workers=workers))

    assert rows == predict(model, load_batches(table, model, batch_size=5))


@pytest.mark.plain
def test_what_cannot_be_evaluated_is_refused(tmp_path):
    path = write_rows(tmp_path)
    model = make_model()
    table = read_table(path)

    with pytest.raises(ValueError, match="There is not one batch. Expected at least one"):
        evaluate(model, [])
    with pytest.raises(ValueError, match=r"evaluate found no known label in 12 samples.* \['kind', 'size'\]"):
        evaluate(model, load_batches(read_table(path, columns={"a": "kind", "b": "size"}), model))
    with pytest.raises(ValueError, match="predict got batches in a random order. Expected the order of the table"):
        predict(model, load_batches(table, model, train=True))
    with pytest.raises(ValueError, match="write_rows got the kind of file='.xls'. Expected one of"):
        write_answers([{}], tmp_path / "a.xls")
    with torch.no_grad():
        model.tasks["kind"].classify.bias.fill_(float("nan"))
    with pytest.raises(
        ValueError, match="evaluate got answers of the task 'kind' that are not finite, for every sample"
    ):
        evaluate(model, load_batches(table, model))
    with pytest.raises(
        ValueError, match="predict got answers of the task 'kind' that are not finite, for every sample"
    ):
        predict(model, load_batches(table, model))
    (batch,) = load_batches(table, model)
    with pytest.raises(ValueError, match="Batch.targets: unknown task 'knid'. Expected one of .* Did you mean 'kind'"):
        evaluate(model, [Batch(batch.inputs, {"knid": batch.targets["kind"]})])
    wrong = Target(batch.targets["size"].values[:, None], batch.targets["size"].known)
    with pytest.raises(ValueError, match=r"The loss of the task 'size' has shape \(9, 9\). Expected \(batch=9\)"):
        evaluate(model, [Batch(batch.inputs, {"size": wrong})])


def test_batches_that_are_not_of_a_table_give_answers_alone():
    model = make_model()
    image = Input(torch.zeros(2, 3, 16, 16), torch.tensor([True, False]))

    rows = predict(model, [Batch({"image": image})])

    assert len(rows) == 2
    assert set(rows[0]) == {
        "kind_predicted",
        "kind_probability",
        "kind_p(kind0)",
        "kind_p(kind1)",
        "kind_p(kind2)",
        "size_predicted",
    }


@pytest.mark.plain
@pytest.mark.parametrize("act", [evaluate, predict])
def test_mixed_rows_are_not_scored(tmp_path, act):
    model = make_model()
    batches = load_batches(read_table(write_rows(tmp_path)), model, train=True, mix=Mixup())
    batches.shuffled = False

    with pytest.raises(ValueError, match="Mixed labels cannot be scored. Expected rows as they are. .* without mix="):
        act(model, batches)


def test_no_rows_are_not_written(tmp_path):
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(ValueError, match="write_rows got no rows. Expected one or more"):
            write_answers([], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_answers_on_samples_have_the_numbers_of_their_rows(tmp_path):
    class Blank(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, row):
            return Sample({"text": torch.tensor([1 + row])}, {})

    model = make_model()

    assert [row["row"] for row in predict(model, load_batches(Blank(), model, batch_size=2))] == [0, 1, 2]


def test_rows_without_any_modality_are_told_by_an_evaluation_and_by_answers(tmp_path):
    table = read_table(write_rows(tmp_path)).with_column("text", [None] * 12)
    model = make_model()
    table = table.with_column("image", [None] * 12)

    for act in (evaluate, predict):
        with pytest.warns(UserWarning, match="of 12 rows have no modality at all: they teach nothing but the frequ"):
            act(model, load_batches(table, model))


@pytest.mark.plain
@pytest.mark.parametrize("workers", [0, 2])
def test_answers_to_a_text_that_would_be_cut_off_are_refused_unless_asked_for(workers):
    model = make_model()
    transform = TextTransform(model.encoders["text"].tokenizer, max_length=6)
    long = "red apple " * 6
    rows = [{"text": text, "kind": "kind0"} for text in ("red apple", long, "green leaf", long + long)]
    table = read_table(rows, columns={"image": None, "audio": None, "size": None})

    def batches(rows=table, size=4):
        return load_batches(rows, model, transforms={"text": transform}, batch_size=size, workers=workers)

    lost = [len(transform.tokenizer(text)["input_ids"]) - 6 for text in (long, long + long)]
    refused = (
        f"row 1 of the list, column 'text': the value is too long, {lost[0]} of its steps .* would be cut off. "
        r"1 more that were read by now .* raise the limit .* or pass predict\(..., truncate=True\)"
    )
    with pytest.raises(DataError, match=refused):
        predict(model, batches())
    with pytest.raises(DataError, match="would be cut off. Expected values"):
        predict(model, batches(size=1))  # as soon as it meets one
    with pytest.warns(UserWarning, match=f"2 values of 'text' were too long and lost {sum(lost)} steps"):
        answers = predict(model, batches(), truncate=True)
    assert len(answers) == 4
    with pytest.warns(UserWarning, match="2 values of 'text' were too long"):
        evaluate(model, batches())
    assert len(predict(model, batches(table.take([0, 2])))) == 2


@pytest.mark.plain
def test_the_samples_of_answers_and_losses_that_are_not_finite_are_named(tmp_path):
    table, model = read_table(write_rows(tmp_path)), make_model()
    audio, place = model.encoders["audio"], "train.csv line"

    class Spoiled(torch.nn.Module):
        """NaN where the clip is as long as that of rows 3, 7 and 11."""

        dim, pretrained = audio.dim, False

        def forward(self, x):
            features = audio(x)
            long = x.mask.sum(dim=1) == x.mask.shape[1] if x.mask is not None else x.present
            return Features.from_pooled(features.pooled.masked_fill(long[:, None], float("nan")), features.present)

    loaders = load_batches(table, model), load_batches(table, model, batch_size=12, bucket_by="audio")
    model.encoders["audio"] = Spoiled()
    told = rf"answers of the task 'kind' that are not finite, for {place} 5, {place} 9, {place} 13. .* the inputs and"

    for batches in loaders:
        with pytest.raises(ValueError, match="evaluate got " + told):
            evaluate(model, batches)
        with pytest.raises(ValueError, match="predict got " + told):
            predict(model, batches)


@pytest.mark.plain
def test_a_label_that_is_not_finite_is_named(tmp_path):
    batches = list(load_batches(read_table(write_rows(tmp_path)), make_model(), batch_size=5))
    batches[1].targets["size"].values[2] = float("nan")

    with pytest.raises(ValueError, match="losses of the task 'size' that are not finite, for sample 2 of batch 1. Exp"):
        evaluate(make_model(), batches)


@pytest.mark.plain
def test_what_a_validation_could_not_read_is_told_in_the_name_of_who_called_fit(tmp_path):
    path = write_rows(tmp_path)
    whole = read_table(path)
    (tmp_path / "0.png").rename(tmp_path / "moved.png")
    model = make_model()
    validation = load_batches(read_table(path), model, on_error="absent")
    (tmp_path / "moved.png").rename(tmp_path / "0.png")
    train = list(load_batches(whole, model, batch_size=6))
    (tmp_path / "0.png").unlink()

    with pytest.warns(UserWarning, match="1 cells could not be read") as told:
        fit(model, train, validation, epochs=1, progress=False)
        evaluate(model, load_batches(read_table(path), model, on_error="absent"))

    assert [warning.filename for warning in told] == [__file__, __file__]
