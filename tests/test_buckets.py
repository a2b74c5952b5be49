"""Batches of similar length: little padding, each row once an epoch, taken up anywhere, by any number of ranks."""

import itertools
import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from processes import run
from tiny_data import make_model, write_rows
from tiny_loader import Letters, Number, model_of
from torch.utils.data import Dataset

from mmfuse.data import DataError, Sample, load_batches, read_table
from mmfuse.data.loading.buckets import BucketOrder
from mmfuse.data.loading.passes import Pass
from mmfuse.data.transforms import (
    AudioTransform,
    Augment,
    FeatureTransform,
    SeriesTransform,
    TextTransform,
    train_tokenizer,
)
from mmfuse.evaluation import evaluate, predict

ROWS = 10_000
BATCH = 32


def added(lengths):
    return sum(lengths.values())


def order_of(lengths, *, cost=added, shuffle=True, seed=0, **limits):
    limits = limits or {"batch_size": BATCH}
    return BucketOrder(
        {name: np.asarray(part, dtype=np.float64) for name, part in lengths.items()},
        cost,
        shuffle=shuffle,
        seed=seed,
        **limits,
    )


def lognormal(median, sigma, low, high, noise):
    return np.clip(np.exp(np.log(median) + sigma * noise), low, high).round()


def distributions():
    """The five of the project's page on performance, as draws: steps of each modality."""
    g = np.random.default_rng(0)
    z, other = g.normal(size=ROWS), g.normal(size=ROWS)
    full = np.where(g.random(ROWS) < 0.75, g.normal(14, 1.5, ROWS), g.uniform(2, 17, ROWS)).clip(2, 17)
    return {
        "text as MOSEI": {"text": lognormal(19, 0.75, 1, 128, z)},
        "text as IMDB": {"text": lognormal(230, 0.65, 10, 512, z)},
        "audio as LibriSpeech": {"audio": (50 * full).round()},
        "audio as MOSEI": {"audio": lognormal(325, 0.7, 25, 1500, z)},
        "both, correlated": {
            "text": lognormal(19, 0.75, 1, 128, z),
            "audio": lognormal(325, 0.7, 25, 1500, 0.9 * z + 0.19**0.5 * other),
        },
        "both, independent": {"text": lognormal(19, 0.75, 1, 128, z), "audio": lognormal(325, 0.7, 25, 1500, other)},
    }


def batches_of(order, epoch=0, world=1, cuts=()):
    """The batches of each rank, as arrays."""
    return [[rows.numpy() for rows in order.rows(Pass(epoch, rank, world, cuts))] for rank in range(world)]


def share_of_padding(lengths, batches):
    real = added({name: length.sum() for name, length in lengths.items()})
    padded = sum(len(rows) * added({name: length[rows].max() for name, length in lengths.items()}) for rows in batches)
    return 1 - real / padded


@pytest.mark.parametrize("name", distributions())
def test_little_is_padding_where_plain_shuffling_wastes_much(name):
    lengths = distributions()[name]
    budget = BATCH * added(lengths).mean()
    goal = 0.05 if len(lengths) == 1 else 0.08
    chosen = np.random.default_rng(1).permutation(ROWS)

    plain = share_of_padding(lengths, [chosen[start : start + BATCH] for start in range(0, ROWS, BATCH)])
    equal = [share_of_padding(lengths, batches_of(order_of(lengths), epoch)[0]) for epoch in range(2)]
    full = [share_of_padding(lengths, batches_of(order_of(lengths, max_tokens=budget), epoch)[0]) for epoch in range(2)]

    assert plain > 0.2 + 0.4 * ("MOSEI" in name or "both" in name)
    assert max(equal + full) < goal


@pytest.mark.parametrize("limits", [{"batch_size": 5}, {"max_tokens": 300}, {"batch_size": 7, "max_tokens": 300}])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_row_comes_once_an_epoch_and_all_ranks_have_as_many_batches(world, shuffle, limits):
    for total in (1, 2, 3, 17, 400):
        lengths = {"x": np.random.default_rng(total).integers(1, 100, total)}
        order = order_of(lengths, shuffle=shuffle, **limits)
        for epoch in range(3):
            ranks = batches_of(order, epoch, world)

            assert sorted(row for rank in ranks for rows in rank for row in rows) == list(range(total))
            count = {order.steps(Pass(epoch, rank, world)) for rank in range(world)}
            assert count == {order.steps(Pass(0, 0, world))} == {max(map(len, ranks))}
            assert all(len(rank) <= len(before) for before, rank in itertools.pairwise(ranks))
            for rows in itertools.chain(*ranks):
                assert len(rows) <= limits.get("batch_size", total)
                assert len(rows) * lengths["x"][rows].max() <= limits.get("max_tokens", 100 * total)


def test_the_order_is_a_function_of_seed_and_epoch():
    lengths = distributions()["text as MOSEI"]
    orders = {
        (seed, epoch): [rows.tolist() for rows in batches_of(order_of(lengths, seed=seed, max_tokens=600), epoch)[0]]
        for seed in (0, -5, 7)
        for epoch in (0, 1)
    }

    assert len({repr(order) for order in orders.values()}) == 6
    again = order_of(lengths, seed=-5, max_tokens=600)
    list(again.rows(Pass(4)))
    assert [rows.tolist() for rows in batches_of(again, 1)[0]] == orders[-5, 1]


def test_others_meet_in_every_epoch_and_steps_are_shuffled():
    lengths = {"x": np.random.default_rng(0).integers(1, 500, 600)}
    order = order_of(lengths, batch_size=6)

    epochs = [batches_of(order, epoch)[0] for epoch in range(6)]

    pairs = [{pair for rows in batches for pair in itertools.combinations(sorted(rows), 2)} for batches in epochs]
    for one, other in itertools.combinations(pairs, 2):
        assert len(one & other) < 0.35 * len(one)
    means = np.array([[lengths["x"][rows].mean() for rows in batches] for batches in epochs])
    assert all(abs(np.corrcoef(line, np.arange(len(line)))[0, 1]) < 0.35 for line in means)


@pytest.mark.parametrize("limits", [{"batch_size": BATCH}, {"max_tokens": 32 * 350}])
def test_the_ranks_have_batches_of_similar_cost_at_the_same_step(limits):
    lengths = distributions()["both, independent"]

    ranks = batches_of(order_of(lengths, **limits), 0, 4)

    costs = np.array(
        [[len(b) * added({n: x[b].max() for n, x in lengths.items()}) for b in rank[:-1]] for rank in ranks]
    )
    assert costs.mean() / costs.max(axis=0).mean() > 0.9  # the rest is waiting
    assert costs.mean(axis=0).max() > 1.05 * costs.mean(axis=0).min()


def test_in_evaluation_all_rows_are_one_window_from_short_to_long():
    lengths = {"x": np.random.default_rng(0).integers(1, 500, 600)}

    (batches,) = batches_of(order_of(lengths, shuffle=False, batch_size=6))

    assert np.concatenate([lengths["x"][rows] for rows in batches]).tolist() == sorted(lengths["x"])


def test_any_function_of_the_lengths_is_a_cost():
    g = np.random.default_rng(0)
    lengths = {"a": g.integers(1, 50, 500).astype(float), "b": g.integers(1, 50, 500).astype(float)}

    def area(given):
        return given["a"] * given["b"] + 10

    (batches,) = batches_of(order_of(lengths, cost=area, max_tokens=9000))

    assert all(len(b) * area({n: x[b].max() for n, x in lengths.items()}) <= 9000 for b in batches)
    assert len(batches) < 1.3 * sum(area({n: x[b].max() for n, x in lengths.items()}) * len(b) for b in batches) / 9000


def test_rows_that_cost_next_to_nothing_do_not_make_a_giant_batch():
    lengths = {"x": np.array([1.0] * 900 + [99.0] * 100)}

    (batches,) = batches_of(order_of(lengths, max_tokens=100))

    assert max(map(len, batches)) <= 4 * 100 / lengths["x"].mean()


# Taken up


@pytest.mark.parametrize("limits", [{"batch_size": 5}, {"max_tokens": 300}])
def test_the_rest_of_an_epoch_is_the_same_or_cut_anew(limits):
    chance = random.Random(0)
    lengths = {"x": np.random.default_rng(1).integers(1, 100, 230), "y": np.random.default_rng(2).integers(1, 9, 230)}
    for world in (1, 2):
        order = order_of(lengths, **limits)
        whole = batches_of(order, 3, world)
        for used in (1, order.steps(Pass(3, 0, world))):
            cuts = order.after(Pass(3, 0, world), used)

            rest = batches_of(order_of(lengths, **limits), 3, world, tuple(json.loads(json.dumps(cuts))))

            assert [[b.tolist() for b in rank] for rank in rest] == [
                [b.tolist() for b in rank[used:]] for rank in whole
            ]
    for _ in range(5):
        rows, cuts = [], ()
        for _ in range(3):
            kind = chance.choice([{"batch_size": chance.randint(1, 9)}, {"max_tokens": chance.randint(120, 900)}])
            order, world = order_of(lengths, **kind), chance.randint(1, 3)
            now = Pass(2, 0, world, cuts)
            done = chance.randint(0, min(8, order.steps(now)))
            ranks = batches_of(order, 2, world, cuts)
            rows += [row for rank in ranks for b in rank[:done] for row in b]
            assert order.steps(replace(now, cuts=order.after(now, done))) == order.steps(now) - done
            cuts = order.after(now, done)

        rows += [row for b in batches_of(order_of(lengths, batch_size=4), 2, 1, cuts)[0] for row in b]

        assert sorted(rows) == list(range(230))


class Measuring(Letters):
    def lengths(self, values):
        return [len(ids) for ids in self.batch(values)[0]]


def words(count):
    """Texts of 1 to 5 letters, and a column that says so."""
    return [
        {"x": str(i), "text": None if i % 9 == 0 else "abcdefgh"[: i % 7 + 1], "y": "ab"[i % 2], "size": i % 7 + 1}
        for i in range(count)
    ]


def loader_of(count=60, **how):
    settings = {"train": True, "seed": 3, "bucket_by": "text", "max_tokens": 20, **how}
    return load_batches(read_table(words(count)), model_of(x=Number(), text=Measuring()), **settings)


def numbers_of(batches):
    return [int(x) for batch in batches for x in batch.inputs["x"].values[batch.inputs["x"].present][:, 0].tolist()]


def same(first, second):
    torch.testing.assert_close(
        torch.utils._pytree.tree_leaves(first), torch.utils._pytree.tree_leaves(second), rtol=0, atol=0
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_loader_of_buckets_goes_on_bit_for_bit(workers):
    expected = list(loader_of())
    killed, resumed = loader_of(workers=workers), loader_of(workers=workers)

    handed = list(itertools.islice(killed, 5))
    resumed.start(json.loads(json.dumps(killed.position(4))))

    same(handed[:4] + list(resumed), expected)
    assert len(expected) == len(resumed)
    assert Counter(numbers_of(expected)) == Counter(range(60))
    assert resumed.rows() == numbers_of(expected[4:])


@pytest.mark.plain
def test_a_place_among_other_lengths_is_refused():
    position = loader_of().position(2)

    with pytest.raises(ValueError, match="cannot go on in the middle of epoch 0: it got lengths=.* for .*Expected the"):
        loader_of(bucket_by="size").start(position)
    with pytest.raises(ValueError, match="it got lengths="):
        loader_of(bucket_by=None, max_tokens=None).start(position)


def test_the_loader_says_which_share_of_its_steps_is_padding():
    plain, bucketed = loader_of(bucket_by=None, max_tokens=None, batch_size=8), loader_of(max_tokens=None, batch_size=8)
    for loader in (plain, bucketed):
        assert loader.padding == {}

        masks = [batch.inputs["text"].mask for batch in loader]

        share = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
        assert loader.padding == {"total": pytest.approx(share, abs=1e-12), "text": pytest.approx(share, abs=1e-12)}
    assert bucketed.padding["total"] < plain.padding["total"]
    iter(plain)
    assert plain.padding == {}


def test_the_share_over_all_modalities_is_weighted_as_the_rows_are():
    table = read_table([{"one": "ab", "two": "abcd"}, {"one": "abcd", "two": "abcd"}, {"one": "a", "two": "a"}])
    model = model_of({}, one=Measuring(), two=Measuring())

    shares = []
    for by in ({"one": 3, "two": 1}, {"one": 1}, lambda lengths: lengths["one"]):
        loader = load_batches(table, model, bucket_by=by, batch_size=3)
        list(loader)
        shares.append(loader.padding)

    assert [share["one"] for share in shares] == pytest.approx([5 / 12] * 3)
    assert [share["two"] for share in shares] == pytest.approx([3 / 12] * 3)
    assert [share["total"] for share in shares] == pytest.approx([18 / 48, 5 / 12, 8 / 24])


def test_answers_come_in_the_order_of_the_table(tmp_path):
    table, model = read_table(write_rows(tmp_path)), make_model().eval()

    plain, bucketed = (
        load_batches(table, model, batch_size=5),
        load_batches(table, model, batch_size=5, bucket_by="audio"),
    )

    assert bucketed.rows() != plain.rows()
    for one, other in zip(predict(model, plain), predict(model, bucketed), strict=True):
        assert one["image"] == other["image"] and one["kind_predicted"] == other["kind_predicted"]
        assert one["size_predicted"] == pytest.approx(other["size_predicted"], abs=1e-4)
    assert evaluate(model, bucketed).numbers == pytest.approx(evaluate(model, plain).numbers, abs=1e-5)


def share():
    """What one of several processes gets of an epoch, and where it says it stands."""
    loader = loader_of(workers=1)
    batches = list(loader)
    return numbers_of(batches), [row for row in loader.rows() if row >= 0], len(batches), loader.position(4)


def test_processes_that_have_met_share_an_epoch():
    (first, second), alone = run(2, share), loader_of()

    assert Counter(first[0] + second[0]) == Counter(range(60))
    assert first[0] == first[1] and second[0] == second[1]
    assert first[2:] == second[2:]
    assert first[3]["cuts"] == [{"batch_size": None, "max_tokens": 20, "world": 2, "batches": 4}]
    alone.start(first[3])
    rest = numbers_of(list(alone))
    assert len(rest) == len(set(rest)) < 60


def answers(table, model):
    batches = load_batches(table, model, max_tokens=3000, bucket_by="audio", max_errors=1.0)
    return [row["image"] for row in predict(model, batches)], evaluate(model, batches).numbers


def test_answers_of_processes_with_batches_of_similar_length_are_those_of_one(tmp_path):
    table, model = read_table(write_rows(tmp_path)), make_model().eval()

    first, second = run(2, answers, table, model)

    assert first == second
    assert first[0] == table.column("image")
    assert first[1] == pytest.approx(evaluate(model, load_batches(table, model)).numbers, abs=1e-5)


# Lengths


class Decodes:
    """Fails if it is asked to decode."""

    def __init__(self, transform):
        self.transform = transform
        self.takes_path, self.padding, self.random = transform.takes_path, transform.padding, False
        self.lengths, self.blank = transform.lengths, transform.blank

    def __call__(self, value):
        raise AssertionError("It was decoded.")


def lengths_of(cells, transform, **how):
    """Of each row, as the order of the loader knows them."""
    table = cells if hasattr(cells, "columns") else read_table([{"m": cell} for cell in cells], outside=True)
    loader = load_batches(table, model_of({}, m=Decodes(transform)), bucket_by="m", **how)
    return loader._order.lengths["m"].tolist()


def test_lengths_of_sounds_are_told_by_their_headers(tmp_path):
    for rate, count, name in ((16000, 5000, "a.wav"), (44100, 9001, "b.flac"), (8000, 700, "c.ogg")):
        soundfile.write(tmp_path / name, np.random.default_rng(0).uniform(-0.1, 0.1, (count, 2)), rate)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    transform = AudioTransform(16000, max_seconds=0.3)
    cells = [str(tmp_path / name) for name in ("a.wav", "b.flac", "c.ogg")]

    found = lengths_of([*cells, None, str(tmp_path / "broken.wav")], transform)

    assert found[:3] == [len(wave) for wave in transform.batch(cells)[0]]
    assert found[3:] == [400, 400]  # as the blank
    contents = [(tmp_path / "b.flac").read_bytes(), (torch.zeros(2, 900), 8000)]
    assert transform.lengths(contents) == [len(wave) for wave in transform.batch(contents)[0]]


def test_lengths_of_texts_are_told_by_the_tokenizer():
    texts = ["a red cup", None, "the blue plate left of the cup", "cup"]
    transform = TextTransform(train_tokenizer([t for t in texts if t], vocab_size=60), 8)

    found = lengths_of(texts, transform)

    assert found == [1 if text is None else len(transform(text)) for text in texts]


def test_lengths_of_arrays_are_told_by_their_headers(tmp_path):
    transform, series = FeatureTransform(3, sequence=True, max_steps=6), SeriesTransform(3, max_steps=6)
    paths = [str(tmp_path / f"{steps}.npy") for steps in (4, 9, 1)]
    for path, steps in zip(paths, (4, 9, 1), strict=True):
        np.save(path, np.zeros((steps, 3), dtype=np.float32))

    for made in (transform, series):
        assert lengths_of([*paths, None], made) == [4, 6, 1, 1]
        assert lengths_of([torch.zeros(2, 3), torch.zeros(7, 3)], made) == [2, 6]
    assert lengths_of(read_table({"m": torch.zeros(3, 5, 3)}), transform) == [5, 5, 5]
    uneven = SeriesTransform(1, times="t", rate_hz=2, max_gap_s=9.0)
    assert uneven.lengths([{"t": [0.0, 1.0, 3.0], "values": [[1.0], [2.0], [3.0]]}]) == [7]


def test_random_steps_do_not_hide_the_length():
    transform = Augment(FeatureTransform(3, sequence=True), [lambda x: x])
    table = read_table([{"m": torch.zeros(2, 3)}, {"m": torch.zeros(7, 3)}])

    loader = load_batches(table, model_of({}, m=transform), bucket_by="m")

    assert loader._order.lengths["m"].tolist() == [2, 7]


class Plain(Letters):
    """Says nothing of lengths; takes arrays."""

    def __call__(self, value):
        return torch.as_tensor(value)

    batch = property()


def test_cells_that_are_arrays_need_no_help_of_the_transform():
    table = read_table([{"m": torch.arange(3)}, {"m": None}, {"m": torch.arange(5)}])

    loader = load_batches(table, model_of({}, m=Plain()), bucket_by="m")

    assert loader._order.lengths["m"].tolist() == [3, 1, 5]


@pytest.mark.parametrize(
    "by", ["size", {"size": 2}, lambda lengths: lengths["size"] ** 2, [i % 7 + 1 for i in range(60)]]
)
def test_rows_are_gathered_by_whatever_the_user_knows(by):
    (rows,) = batches_of(loader_of(bucket_by=by, max_tokens=None, batch_size=5, train=False)._order)

    assert [i % 7 for b in rows for i in b] == sorted(i % 7 for i in range(60))


class Own(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, row):
        return Sample({"text": torch.arange(6 - row)}, {})


def test_a_dataset_of_samples_is_gathered_by_numbers_that_are_given():
    model = model_of({}, text=Letters())

    loader = load_batches(Own(), model, bucket_by=[6, 5, 4, 3, 2, 1], batch_size=2)

    assert [batch.inputs["text"].values.shape[1] for batch in loader] == [2, 4, 6]
    assert loader.rows() == [5, 4, 3, 2, 1, 0]
    with pytest.raises(
        ValueError, match="bucket_by: the length of 'text' is not known.* Or give a number for each row"
    ):
        load_batches(Own(), model, bucket_by="text")


@pytest.mark.plain
@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"bucket_by": "texd"}, ValueError, "the length of 'texd' is not known. Expected .*Did you mean 'text'"),
        ({"bucket_by": "x"}, ValueError, "the length of 'x' is not known. Expected a modality of sequences"),
        ({"bucket_by": "y"}, ValueError, "bucket_by got the column 'y', which does not hold numbers alone. Expected a"),
        ({"bucket_by": {"text": 0}}, ValueError, "bucket_by got the weights {'text': 0}. Expected numbers above 0"),
        ({"bucket_by": {}}, ValueError, "bucket_by got the weights {}. Expected"),
        ({"bucket_by": [1, 2]}, ValueError, r"gave costs of shape \(2,\). Expected one for each of 60 rows"),
        ({"bucket_by": lambda lengths: 3}, ValueError, r"gave costs of shape \(\). Expected one for each of 60 rows"),
        ({"bucket_by": [1.0] * 59 + [np.nan]}, DataError, "row 59 of the list costs nan by bucket_by. Expected a fini"),
        ({"bucket_by": [1.0, 0, *[1.0] * 58]}, DataError, "row 1 of the list costs 0 by bucket_by"),
        (
            {"max_tokens": 4},
            DataError,
            "row 4 of the list costs 5 alone, and so do .* Expected at most max_tokens=4. R",
        ),
        ({"max_tokens": -1}, ValueError, "Loader got max_tokens=-1"),
    ],
)
def test_what_cannot_be_gathered_is_refused(how, error, message):
    table, model = read_table(words(60)), model_of(x=Number(), text=Measuring())

    with pytest.raises(error, match=message):
        load_batches(table, model, **how)


@pytest.mark.plain
def test_what_counts_has_to_be_said_where_there_are_several_modalities():
    table = read_table([{"one": "ab", "two": "abcd"}])

    with pytest.raises(
        ValueError, match=r"max_tokens without bucket_by, and the model has 2 .*: \['one', 'two'\]. Exp"
    ):
        load_batches(table, model_of({}, one=Measuring(), two=Measuring()), max_tokens=100)
    with pytest.raises(
        ValueError, match="Letters of 'one' cannot tell how long a cell is without reading it. Expected"
    ):
        load_batches(table, model_of({}, one=Letters()), max_tokens=100)
