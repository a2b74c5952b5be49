"""One epoch cut among several ranks, and taken up in its middle, by as many or by others."""

import itertools
import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_loader import Letters, Number, model_of

from mmfuse.data import DataError, Mixup, load_batches, load_shards, read_table, write_shards
from mmfuse.data.loading.order import Order
from mmfuse.data.loading.passes import Pass, cut
from mmfuse.data.loading.ranks import rank_and_world
from mmfuse.distributed import rank as rank_of_the_run


@pytest.fixture
def as_rank(monkeypatch):
    """``as_rank(rank, world)`` makes this process one of several, as far as loaders know."""

    def become(rank, world):
        monkeypatch.setattr("mmfuse.data.loading.loader.rank_and_world", lambda: (rank, world))

    return become


class Noisy(Number):
    """A number, and one that is drawn."""

    random = True

    def __call__(self, value):
        return torch.tensor([float(value), torch.rand(()).item()])

    def blank(self):
        return torch.zeros(2)


def rows_of(count):
    return [{"x": str(i), "text": "abcdefgh"[: i % 7 + 1], "y": "ab"[i % 2]} for i in range(count)]


def loader_of(count=23, transform=None, **how):
    settings = {"train": True, "batch_size": 4, "seed": 3, **how}
    return load_batches(read_table(rows_of(count)), model_of(x=transform or Noisy(), text=Letters()), **settings)


def rows_in(batches):
    """The rows that the batches hold, by their number in the table; without blank ones."""
    inputs = [batch.inputs["x"] for batch in batches]
    return [int(row) for given in inputs for row in given.values[given.present][:, 0].tolist()]


def same(first, second):
    """Every tensor of two batches is equal, bit for bit."""
    torch.testing.assert_close(
        torch.utils._pytree.tree_leaves(first), torch.utils._pytree.tree_leaves(second), rtol=0, atol=0
    )


def epoch_on(world, loader, as_rank, epoch=0):
    """The batches of every rank."""
    found = []
    for rank in range(world):
        as_rank(rank, world)
        loader.epoch = epoch
        found.append(list(loader))
    return found


def test_a_process_of_its_own_is_the_only_one():
    assert rank_and_world() == (0, 1) == (rank_of_the_run(), 1)


def test_torchrun_says_which_rank_this_is_when_a_pass_begins(monkeypatch):
    loader = loader_of(8)

    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))

    assert rank_and_world() == (1, 2)
    assert len(loader) == 1 and len(rows_in(loader)) == 4


@pytest.mark.parametrize("length", range(8))
def test_pieces_are_as_equal_as_they_can_be(length):
    for parts in (1, 2, 3, 5):
        pieces = [cut(list(range(length)), parts, part) for part in range(parts)]

        assert [x for piece in pieces for x in piece] == list(range(length))
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_ranks_together_have_the_batches_of_one_process_with_larger_ones(as_rank, world, train):
    for count in (1, 2, 5, 7, 12, 23):
        alone = load_batches(
            read_table(rows_of(count)), model_of(x=Number()), train=train and count > 1, batch_size=2 * world, seed=3
        )
        ranks = load_batches(
            read_table(rows_of(count)), model_of(x=Number()), train=train and count > 1, batch_size=2, seed=3
        )
        as_rank(0, 1)
        expected = [rows_in([batch]) for batch in alone]

        found = epoch_on(world, ranks, as_rank)

        steps = [[row for rank in found for row in rows_in([rank[step]])] for step in range(len(expected))]
        assert steps == expected
        assert [len(rank) for rank in found] == [len(ranks)] * world == [len(expected)] * world


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rank_without_a_sample_gets_a_blank_row(as_rank, workers):
    loader = loader_of(9, Number(), workers=workers)

    found = epoch_on(2, loader, as_rank)

    assert [len(batch.inputs["x"].present) for batch in found[1]] == [4, 1]
    blank = found[1][1]
    assert not any(given.present.any() for given in blank.inputs.values())
    assert not blank.targets["y"].known.any()
    assert blank.inputs["text"].mask.shape == (1, 1) and not blank.inputs["text"].mask.any()
    assert blank.inputs["x"].values.shape == (1, 1) and blank.targets["y"].values.shape == (1,)
    assert loader.dataset.report.without_any_modality == []


@pytest.mark.parametrize("train", [False, True])
def test_the_rows_of_a_rank_put_its_answers_in_the_order_of_the_table(as_rank, train):
    loader = loader_of(7, Number(), train=train, batch_size=1)

    gathered = []
    for rank in range(3):
        as_rank(rank, 3)
        loader.epoch = 0
        values = torch.cat([batch.inputs["x"].values for batch in loader])[:, 0].tolist()
        gathered += zip(loader.rows(), values, strict=True)

    assert len(gathered) == 9  # three steps of three ranks
    assert sorted(pair for pair in gathered if pair[0] >= 0) == [(row, float(row)) for row in range(7)]
    assert [row for row, _ in gathered].count(-1) == 2


@pytest.mark.parametrize("world", [2, 3])
def test_what_is_random_in_a_row_does_not_depend_on_the_ranks(as_rank, world):
    loader, alone = loader_of(), loader_of()
    for epoch in (0, 1):
        found = epoch_on(world, loader, as_rank, epoch)
        as_rank(0, 1)
        expected = torch.cat([batch.inputs["x"].values for batch in alone])

        values = [batch.inputs["x"].values[batch.inputs["x"].present] for rank in found for batch in rank]

        assert sorted(torch.cat(values).tolist()) == sorted(expected.tolist())


def test_the_share_of_a_mixed_row_does_not_depend_on_the_ranks():
    mix = Mixup(1.0)

    assert mix._draw(3, 0, 17) == Mixup(1.0)._draw(3, 0, 17) != mix._draw(3, 1, 17)


@pytest.mark.parametrize("world", [1, 2])
def test_bad_rows_leave_every_rank_its_number_of_batches(as_rank, world):
    rows = rows_of(20)
    for row in (3, 4, 11):
        rows[row]["x"] = "bad"
    table = read_table(rows)
    loader = load_batches(table, model_of(x=Number()), batch_size=2, on_error="skip", max_errors=0.2)

    found = epoch_on(world, loader, as_rank)

    assert [len(rank) for rank in found] == [len(loader)] * world
    assert sorted(row for rank in found for row in rows_in(rank)) == [i for i in range(20) if i not in (3, 4, 11)]


def test_the_reports_of_the_ranks_together_say_what_one_process_would_have_said(as_rank):
    rows = rows_of(300)
    for row in range(0, 300, 2):
        rows[row]["x"] = "bad"
    for row in range(0, 300, 7):
        rows[row] |= {"x": None, "text": None}
    table = read_table(rows)
    reports = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        as_rank(rank, world)
        loader = load_batches(table, model_of(x=Number(), text=Letters()), on_error="absent", max_errors=0.6)
        list(loader)
        reports.append(loader.dataset.report)
    alone, first, second = reports
    assert len(first.rows) < len(alone.rows) > 100

    states = [json.loads(json.dumps(report.state_dict())) for report in (first, second)]
    for report in (first, second):
        for state in states:  # its own, too: a cell counts once
            report.merge(state)

        assert report.rows == alone.rows
        assert report.dropped == alone.dropped
        assert report.truncated == alone.truncated
        assert report.without_any_modality == alone.without_any_modality
        assert report.news() == alone.news()
        assert len(report.problems) == 100
        assert all("could not convert string to float" in problem.reason for problem in report.problems)
        alone._told = (0, 0, 0)


@pytest.mark.plain
def test_too_many_bad_rows_over_all_ranks_are_an_error_of_each(as_rank):
    rows = rows_of(40)
    for row in range(0, 40, 4):
        rows[row]["x"] = "bad"
    reports = []
    for rank in range(2):
        as_rank(rank, 2)
        loader = load_batches(read_table(rows), model_of(x=Number()), batch_size=4, on_error="skip", max_errors=0.2)
        list(loader)  # 5 of its own: no more than 8
        reports.append(loader.dataset.report)

    for report in reports:
        with pytest.raises(DataError, match=r"10 of 40 rows could not be read, more than max_errors allows \(8\)"):
            for state in [other.state_dict() for other in reports]:
                report.merge(state)


# Taken up


@pytest.mark.parametrize("mix", [None, Mixup()])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_new_loader_hands_out_the_rest_of_an_epoch_bit_for_bit(workers, mix):
    whole = loader_of(mix=mix)
    list(whole)
    expected = list(whole)
    for used in range(7) if workers == 0 else (0, 3):
        killed = loader_of(mix=mix, workers=workers)
        killed.epoch = 1
        list(itertools.islice(killed, min(6, used + 1)))  # one more was handed out than was used
        resumed = loader_of(mix=mix, workers=workers)

        resumed.start(json.loads(json.dumps(killed.position(used))))

        same(list(resumed), expected[used:])
        assert resumed.epoch == 2
    same(list(resumed), list(whole))


def test_a_pass_that_was_taken_up_can_be_taken_up_again():
    expected = list(loader_of())
    loader = loader_of()
    for used in (1, 2, 0, 2):
        rest = itertools.islice(loader, used)
        same(list(rest), expected[:used])
        expected = expected[used:]
        position = loader.position(used)
        loader = loader_of()
        loader.start(position)

    same(list(loader), expected)
    assert position["cuts"] == [{"batch_size": 4, "world": 1, "batches": 5}]


def test_the_position_before_any_pass_is_that_of_the_next_one():
    loader = loader_of()
    loader.epoch = 4
    list(itertools.islice(loader, 2))
    middle = loader.position(2)

    loader.start(middle)

    assert loader.position(0) == middle
    assert loader.position(1)["cuts"][0]["batches"] == 3
    loader.epoch = 7
    assert loader.position(0) == {**middle, "epoch": 7, "cuts": []}


@pytest.mark.plain
@pytest.mark.parametrize("how", [{}, {"bucket_by": "x"}, {"bucket_by": "x", "max_tokens": np.int64(90)}])
def test_a_position_is_plain_json_whatever_the_settings_are(how):
    table = read_table([{"x": i + 1, "y": "ab"[i % 2], "n": "1"} for i in range(20)])

    loader = load_batches(table, model_of(n=Number()), train=True, batch_size=np.int64(4), seed=np.int64(3), **how)
    position = loader.position(2)

    assert json.loads(json.dumps(position)) == position
    loader.start(position)
    assert sum(len(batch.inputs["n"].present) for batch in loader) == 20 - 8


def test_setting_the_same_epoch_keeps_the_place_and_another_one_begins_it():
    loader, whole = loader_of(), list(loader_of())

    loader.start(loader.position(2))
    loader.epoch = 0
    same(list(loader), whole[2:])

    loader.start(loader.position(2))
    loader.epoch = 5
    loader.epoch = 0
    same(list(loader), whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_rest_of_an_epoch_is_cut_anew_for_other_ranks(as_rank, workers):
    for before, after, size in ((1, 2, 2), (2, 1, 8), (2, 3, 4), (3, 2, 1)):
        loader, other = loader_of(workers=workers), loader_of(workers=workers, batch_size=size)
        used = []
        for rank in range(before):
            as_rank(rank, before)
            loader.epoch = 1
            used += list(itertools.islice(loader, 1))
        position = loader.position(1)

        rest = []
        for rank in range(after):
            as_rank(rank, after)
            other.start(position)
            rest.append(list(other))

        assert Counter(rows_in(used + [batch for rank in rest for batch in rank])) == Counter(range(23))
        assert len({len(rank) for rank in rest}) == 1
        if before * 4 == after * size:  # the same global batch: the same steps
            as_rank(0, 1)
            alone = loader_of(batch_size=before * 4)
            alone.epoch = 1
            steps = [sorted(rows_in([batch])) for batch in alone][1:]
            assert [sorted(r for rank in rest for r in rows_in([rank[i]])) for i in range(len(steps))] == steps
        if workers:
            break


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_order_can_be_cut_anew_again_and_again(shuffle):
    chance = random.Random(0)
    for _ in range(100):
        total = chance.randint(1, 40)
        used, cuts = [], ()
        for _ in range(4):
            order, world = Order(total, chance.randint(1, 4), shuffle=shuffle, seed=1), chance.randint(1, 3)
            passes = [Pass(2, rank, world, cuts) for rank in range(world)]
            done = chance.randint(0, order.steps(passes[0]))
            used += [row for now in passes for rows in list(order.rows(now))[:done] for row in rows.tolist()]
            cuts = order.after(passes[0], done)
        assert order.steps(replace(passes[0], cuts=cuts)) == order.steps(passes[0]) - done

        used += [row for rows in order.rows(Pass(2, cuts=cuts)) for row in rows.tolist()]

        assert sorted(used) == list(range(total))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 4}, "seed=4 for 3"),
        ({"count": 24}, "rows=24 for 23"),
        ({"train": False}, "shuffle=False for True"),
    ],
)
def test_the_place_in_another_order_is_refused(other, message):
    position = loader_of().position(2)

    with pytest.raises(
        ValueError,
        match=f"^The loader of the list cannot go on in the middle of epoch 0: it got {message}. Expected the rows "
        "and settings of then. Give them, or begin the next epoch: loader.epoch = 1.$",
    ):
        loader_of(**other).start(position)

    loader_of(**other).start({**position, "epoch": 3, "cuts": []})  # a whole epoch may be of others


def test_the_place_of_shards_is_refused_by_a_table(tmp_path):
    write_shards(read_table(rows_of(8)), tmp_path / "s")
    shards = load_shards(tmp_path / "s", model_of(text=Letters()), train=True, batch_size=2)

    with pytest.raises(ValueError, match="it got counts=None for .*rows=23 for None, .*samples=None for 8"):
        loader_of().start(shards.position(1))
