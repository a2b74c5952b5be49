"""Scores and answers over several processes: each row once, the numbers of one process, in the order of the table."""

import math
import warnings
from typing import Any

import pytest
import torch
from processes import run
from tiny_numbers import make_model, table_of

from mmfuse.data import load_batches, load_shards, write_shards
from mmfuse.distributed import rank
from mmfuse.evaluation import evaluate, predict

pytestmark = pytest.mark.filterwarnings("ignore:.* rows have no modality at all")
SIZES = (1, 5, 7, 64)


def scores_and_answers(size: int) -> tuple[Any, list[dict[str, Any]]]:
    """Of a table of so many rows. One row has both labels in any case."""
    table, model = table_of(size), make_model()
    report = evaluate(model, load_batches(table, model, batch_size=2, max_errors=1.0))
    return report, predict(model, load_batches(table, model, batch_size=2))


def of_all_sizes() -> list[tuple[Any, list[dict[str, Any]]]]:
    return [scores_and_answers(size) for size in SIZES]


@pytest.fixture(scope="module")
def alone():
    return of_all_sizes()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_process_has_the_numbers_and_answers_of_one_that_has_all_rows(alone, world):
    for found in run(world, of_all_sizes):
        for size, (report, answers), (expected, rows) in zip(SIZES, found, alone, strict=True):
            assert report.samples == expected.samples == size
            assert report.without_any_modality == expected.without_any_modality
            assert report.numbers == pytest.approx(expected.numbers, rel=1e-12, abs=1e-12, nan_ok=True)
            assert report.weights == pytest.approx(expected.weights, rel=1e-12)
            assert str(report) == str(expected)
            assert [row["id"] for row in answers] == [f"row {i}" for i in range(size)]
            for row, same in zip(answers, rows, strict=True):
                assert row.keys() == same.keys()
                for name, value in row.items():
                    close = isinstance(value, float) and math.isclose(value, same[name], rel_tol=1e-12, abs_tol=1e-14)
                    assert close or value == same[name], name


def of_shards(folder) -> list[dict[str, Any]]:
    model = make_model()
    return predict(model, load_shards(folder, model, batch_size=2))


def test_answers_to_samples_of_shards_come_with_their_keys_in_their_order(tmp_path):
    table = table_of(7)
    write_shards(table, tmp_path)

    expected = of_shards(tmp_path)

    for found in run(2, of_shards, tmp_path):
        assert [row["key"] for row in found] == [row["key"] for row in expected]
        for row, same in zip(found, expected, strict=True):
            assert row["size_predicted"] == pytest.approx(same["size_predicted"], rel=1e-12)


def with_bad_rows() -> tuple[list[str], list[Any], int]:
    table = table_of(20)
    cells = [[1.0, 2.0, 3.0] for _ in range(20)]
    cells[3], cells[4], cells[17] = "no.npy", [1.0], "neither.npy"
    model = make_model()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        batches = load_batches(table.with_column("a", cells), model, batch_size=2, on_error="skip", max_errors=0.5)
        answers = predict(model, batches)
        evaluate(model, batches)
    said = [str(warning.message) for warning in told]
    return said, [row["size_predicted"] for row in answers], len(batches.dataset.report.rows)


def test_what_any_process_could_not_read_is_told_once_and_has_no_answer():
    said, expected, _ = with_bad_rows()

    first, second = run(2, with_bad_rows)

    assert len(said) == 1
    assert "3 rows could not be read" in said[0]
    assert first[0] == said
    assert second[0] == []
    for _, answers, bad in (first, second):
        assert bad == 3
        assert [row for row, answer in enumerate(answers) if answer is None] == [3, 4, 17]
        assert [answer for answer in answers if answer] == pytest.approx([x for x in expected if x], rel=1e-12)


def of_a_list() -> tuple[int, float]:
    model = make_model()
    report = evaluate(model, BATCHES)
    return report.samples, report.numbers["loss"]


BATCHES = list(load_batches(table_of(6), make_model(), batch_size=2))


def test_a_list_is_gone_over_as_a_whole_by_every_process():
    assert run(2, of_a_list) == [of_a_list()] * 2
    assert of_a_list()[0] == 6


def with_statistics() -> list[float]:
    """Rank 1 has other statistics, as after a step of training."""
    torch.manual_seed(0)
    model = make_model()
    model.tasks["kind"].classify = torch.nn.Sequential(torch.nn.BatchNorm1d(8), model.tasks["kind"].classify).double()
    model.tasks["kind"].classify[0].running_mean += rank()
    return predict(model, BATCHES[:1])[0]["kind_probability"]


def test_all_processes_answer_with_the_statistics_of_rank_0():
    assert run(2, with_statistics) == [with_statistics()] * 2
