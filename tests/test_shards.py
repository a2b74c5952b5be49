"""Shards: written from tables, read as a stream, split over ranks and workers, taken up anywhere."""

import io
import itertools
import json
import random
import tarfile
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_data import make_model, write_rows
from torch.utils._pytree import tree_leaves

from mmfuse.data import (
    DataError,
    index_shards,
    load_batches,
    load_shards,
    read_table,
    verify_shards,
    write_shards,
)
from mmfuse.data.loading.passes import Pass
from mmfuse.data.shards.index import read_shards
from mmfuse.data.shards.lengths import member_sizes
from mmfuse.data.shards.order import Order
from mmfuse.data.shards.tar import TarReader, split_name
from mmfuse.evaluation import evaluate, predict
from mmfuse.tasks import Classification
from mmfuse.training import fit


class Number:
    """A modality whose file holds one number. In training a random one is added, from every generator there is."""

    takes_path = True
    padding = None

    def __init__(self, random=False):
        self.random = random

    def __call__(self, value):
        if not isinstance(value, bytes):
            raise ValueError(f"The value is a {type(value).__name__}. Expected bytes.")
        noise = torch.rand(()) + np.random.rand() if self.random else 0.0
        return torch.tensor(float(value)) + noise

    def blank(self):
        return torch.tensor(0.0)


class Text:
    """A modality of text: the number of each letter."""

    takes_path = False
    random = False
    padding = 0

    def __call__(self, value):
        return torch.tensor([ord(letter) for letter in value])

    def blank(self):
        return torch.tensor([0])


def make_reader(**encoders):
    """All of a model that a loader asks for: two modalities, the number and the text, and one task."""
    transforms = encoders or {"number": Number, "text": lambda random: Text()}
    return SimpleNamespace(
        encoders={name: SimpleNamespace(transform=make) for name, make in transforms.items()},
        tasks={"label": Classification(4, ["even", "odd"])},
    )


def write_tar(path, members):
    """A tar with these members: (name, content), or a TarInfo with its content."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            header = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            header.size = len(content) if header.isreg() else 0
            tar.addfile(header, io.BytesIO(content))
    return path


def write_numbers(folder, counts=(7, 0, 5, 11), first=0):
    """Shards of samples whose number is their place among all; every third has no text."""
    folder.mkdir(exist_ok=True)
    numbers = itertools.count(first)
    for shard, count in enumerate(counts):
        members = []
        for i in itertools.islice(numbers, count):
            members.append((f"{i:06d}.number.bin", str(i).encode()))
            if i % 3:
                members.append((f"{i:06d}.txt", f"text {i}".encode()))
            members.append((f"{i:06d}.json", json.dumps({"label": ["even", "odd"][i % 2]}).encode()))
        write_tar(folder / f"train-{shard:06d}.tar", members)
    return folder


def numbers_of(batches):
    """The numbers of all samples, without blank rows."""
    inputs = [batch.inputs["number"] for batch in batches]
    return [int(x) for given in inputs for x in given.values[given.present].tolist()]


@pytest.fixture
def as_rank(monkeypatch):
    """``as_rank(rank, world)`` makes this process one of several, as far as loaders know."""

    def become(rank, world):
        monkeypatch.setattr("mmfuse.data.loading.loader.rank_and_world", lambda: (rank, world))

    return become


def assert_same_batches(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(tree_leaves(one), tree_leaves(other), rtol=0, atol=0)
        assert (one.inputs.keys(), one.targets.keys()) == (other.inputs.keys(), other.targets.keys())


# Format


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("000123.jpg", ("000123", "jpg")),
        ("a/b.c/000123.Left.JPG", ("a/b.c/000123", "left.jpg")),
        ("./7.txt", ("./7", "txt")),
        ("README", None),
        (".hidden", None),
        ("a/._7.jpg", None),
        ("__meta__/1.json", None),
        ("7.", None),
    ],
)
def test_names_are_split_as_webdataset_splits_them(name, parts):
    assert split_name(name) == parts


def test_batches_hold_what_the_members_say(tmp_path):
    write_numbers(tmp_path / "s")

    batches = list(load_shards(tmp_path / "s", make_reader(), batch_size=5))

    assert numbers_of(batches) == list(range(23))
    assert [len(batch.inputs["text"].present) for batch in batches] == [5, 5, 5, 5, 3]
    present = torch.cat([batch.inputs["text"].present for batch in batches])
    labels = torch.cat([batch.targets["label"].values for batch in batches])
    assert present.tolist() == [i % 3 != 0 for i in range(23)]
    assert labels.tolist() == [i % 2 for i in range(23)]
    text = batches[0].inputs["text"]
    assert "".join(map(chr, text.values[1][text.mask[1]].tolist())) == "text 1"


def test_a_table_in_shards_gives_the_batches_of_the_table(tmp_path):
    table, model = read_table(write_rows(tmp_path, rows=11)), make_model()
    write_shards(table, tmp_path / "s", files=["image", "audio"], per_shard=4)

    found = list(load_shards(tmp_path / "s", model, batch_size=3))

    assert_same_batches(found, list(load_batches(table, model, batch_size=3)))


def test_a_model_is_trained_and_evaluated_on_shards(tmp_path):
    table, model = read_table(write_rows(tmp_path)), make_model()
    write_shards(table, tmp_path / "s", files=["image", "audio"], per_shard=5)
    train = load_shards(tmp_path / "s", model, train=True, batch_size=4, buffer=6)

    history = fit(model, train, epochs=2, progress=False)

    report = evaluate(model, load_shards(tmp_path / "s", model, batch_size=5))
    assert len(history.epochs) == 2 and train.epoch == 2
    assert report.samples == 12
    assert report.numbers == evaluate(model, load_batches(table, model, batch_size=5)).numbers


def test_columns_say_which_member_is_which(tmp_path):
    write_tar(
        tmp_path / "a.tar",
        [("1.left.bin", b"3"), ("1.right.bin", b"4"), ("1.cls", b"1\n"), ("1.json", b'{"label": 0}')],
    )
    model = make_reader(number=Number)
    model.tasks["label"] = Classification(4, 2)

    (batch,) = load_shards(tmp_path, model, columns={"number": ("front.bin", "right.bin")})

    assert batch.inputs["number"].values.tolist() == [4.0]
    assert batch.targets["label"].values.tolist() == [1]


def test_a_column_can_be_said_to_be_absent(tmp_path):
    write_numbers(tmp_path / "s")

    batches = list(load_shards(tmp_path / "s", make_reader(), columns={"text": None, "label": None}))

    assert not any(batch.inputs["text"].present.any() for batch in batches)
    assert not any(batch.targets["label"].known.any() for batch in batches)


# Order


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("train", [False, True])
def test_every_sample_comes_once_over_ranks_and_workers(tmp_path, as_rank, world, workers, train):
    write_numbers(tmp_path / "s")
    model = make_reader(number=lambda random: Number())
    loader = load_shards(tmp_path / "s", model, train=train, batch_size=3, buffer=4, workers=workers)

    for epoch in range(2 if workers == 0 else 1):
        found, rows = [], []
        for rank in range(world):
            as_rank(rank, world)
            loader.epoch = epoch
            found.append(list(loader))
            rows.append(loader.rows())

        assert Counter(number for rank in found for number in numbers_of(rank)) == Counter(range(23))
        assert [len(rank) for rank in found] == [len(loader)] * world
        assert [[row for row in some if row >= 0] for some in rows] == [numbers_of(rank) for rank in found]


@pytest.mark.parametrize("shuffle", [False, True])
def test_any_order_has_each_sample_once_and_equal_steps(shuffle):
    for counts, size, buffer, world in itertools.product(
        [(1,), (5,), (3, 0, 9, 1), (64,)], [1, 2, 7], [1, 5, 99], [1, 2, 3]
    ):
        order = Order(counts, size, shuffle, buffer, seed=3)
        passes = [Pass(2, rank, world) for rank in range(world)]

        batches = [list(order.rows(now)) for now in passes]

        assert sorted(row for rank in batches for batch in rank for row in batch) == list(range(sum(counts)))
        assert len({order.steps(now) for now in passes}) == 1
        assert order.steps(passes[0]) == max(map(len, batches)) <= len(batches[-1]) + 1
        assert all(len(batch) == size for rank in batches for batch in rank[:-1])
        for now, rank in zip(passes, batches, strict=True):
            run = order.run(now)
            assert all(run.row(run.position(row)) == row for batch in rank for row in batch)
            assert all(
                run.position(row) is None for other in batches if other is not rank for some in other for row in some
            )
            later = [replace(now, cuts=order.after(now, first)) for first in range(len(rank) + 1)]
            assert [list(order.rows(then)) for then in later] == [rank[first:] for first in range(len(rank) + 1)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_what_is_left_of_an_epoch_can_be_cut_anew_again_and_again(shuffle):
    chance = random.Random(0)
    for _ in range(60):
        counts = (1, *(chance.randrange(9) for _ in range(4)))
        used, cuts = [], ()
        for _ in range(4):
            order = Order(counts, chance.randint(1, 4), shuffle, chance.choice([1, 5, 99]), seed=3)
            world = chance.randint(1, 3)
            passes = [Pass(2, rank, world, cuts) for rank in range(world)]
            done = chance.randint(0, order.steps(passes[0]))
            used += [row for now in passes for batch in list(order.rows(now))[:done] for row in batch]
            cuts = order.after(passes[0], done)

        used += [row for batch in order.rows(Pass(2, cuts=cuts)) for row in batch]

        assert sorted(used) == list(range(sum(counts)))


@pytest.mark.parametrize("shuffle", [False, True])
def test_samples_of_similar_length_share_a_batch_and_each_comes_once_however_the_epoch_is_cut(shuffle):
    chance = random.Random(0)
    for _ in range(40):
        counts = (1, *(chance.randrange(30) for _ in range(4)))
        lengths = np.array([float(chance.randrange(5)) for _ in range(sum(counts))])
        used, cuts = [], ()
        for _ in range(3):
            order = Order(counts, chance.randint(1, 4), shuffle, chance.choice([1, 5, 99]), 3, lengths)
            world = chance.randint(1, 3)
            passes = [Pass(2, rank, world, cuts) for rank in range(world)]
            batches = [list(order.rows(now)) for now in passes]
            assert len({order.steps(now) for now in passes}) == 1
            for now, rank in zip(passes, batches, strict=True):
                later = [replace(now, cuts=order.after(now, first)) for first in range(len(rank) + 1)]
                assert [list(order.rows(then)) for then in later] == [rank[first:] for first in range(len(rank) + 1)]
            done = chance.randint(0, order.steps(passes[0]))
            used += [row for rank in batches for batch in rank[:done] for row in batch]
            cuts = order.after(passes[0], done)

        used += [row for batch in order.rows(Pass(2, cuts=cuts)) for row in batch]

        assert sorted(used) == list(range(sum(counts)))


def test_little_is_padding_where_shards_are_read_by_length():
    noise = np.random.default_rng(0).normal(size=8000)
    lengths = np.clip(np.exp(np.log(325) + 0.7 * noise), 25, 1500).round()  # sounds of MOSEI, in frames

    def shares(given):
        order = Order((1000,) * 8, 32, True, 1000, 0, given)
        ranks = [list(order.rows(Pass(1, rank, 2))) for rank in range(2)]
        longest = np.array([[lengths[rows].max() for rows in rank] for rank in ranks])
        rows = np.array([[len(rows) for rows in rank] for rank in ranks])
        return (
            1 - lengths.sum() / (rows * longest).sum(),
            np.corrcoef(longest)[0, 1],
            np.corrcoef(longest[0], np.arange(125)),
        )

    (plain, _, _), (sorted_, alike, by_step) = shares(None), shares(lengths)

    assert plain > 0.6
    assert sorted_ < 0.06
    assert alike > 0.9  # both ranks have long samples at the same step
    assert abs(by_step[0, 1]) < 0.3  # and the steps are shuffled


def test_lengths_are_the_sizes_of_members_and_go_by_weights_functions_or_numbers(tmp_path):
    write_numbers(tmp_path / "s", counts=(5, 3))
    model = make_reader()
    numbers = np.arange(8)
    texts = np.array([len(f"text {i}") if i % 3 else 0 for i in range(8)])

    def lengths(by):
        return load_shards(tmp_path / "s", model, bucket_by=by)._order.lengths.tolist()

    assert lengths("text") == texts.tolist()
    assert lengths({"text": 2, "number": 0.5}) == (2 * texts + 0.5).tolist()
    assert lengths(lambda sizes: sizes["text"] ** 2) == (texts**2).tolist()
    assert lengths(numbers) == numbers.tolist()
    assert member_sizes(read_shards([tmp_path / "s" / "train-000000.tar"]), {"kind": [("label",)]})[
        "kind"
    ].tolist() == [len(json.dumps({"label": ["even", "odd"][i % 2]})) for i in range(5)]
    with pytest.raises(ValueError, match=r"bucket_by=...\): unknown modality 'txt'. Expected one of .*mean 'text'"):
        lengths("txt")
    with pytest.raises(
        ValueError,
        match=r"bucket_by lengths of shape \(2,\), 1 of them not finite. Expected a finite .* each of 8 samp",
    ):
        lengths([1.0, float("nan")])
    other = load_shards(tmp_path / "s", model, train=True, batch_size=2, bucket_by="number")
    with pytest.raises(ValueError, match="cannot go on in the middle of epoch 0: it got lengths=[0-9]+ for None"):
        other.start(load_shards(tmp_path / "s", model, train=True, batch_size=2).position(1))


def test_epochs_and_seeds_differ_and_repeat():
    orders = {
        (seed, epoch): list(Order((40, 40, 40), 8, True, 16, seed).rows(Pass(epoch)))
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }

    assert len({repr(order) for order in orders.values()}) == 6
    assert list(Order((40, 40, 40), 8, True, 16, 1).rows(Pass(2))) == orders[1, 2]


def test_a_buffer_as_large_as_the_data_shuffles_all_of_it():
    places = torch.tensor([next(Order((50, 50), 1, True, 100, seed).rows(Pass(0)))[0] for seed in range(400)])

    counts = places.bincount(minlength=100)

    assert counts.max() < 20  # expected 4 of each
    assert (counts > 0).sum() > 90


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    write_numbers(tmp_path / "s", counts=(13, 9))

    passes = [
        list(load_shards(tmp_path / "s", make_reader(), train=True, batch_size=4, buffer=6, workers=workers))
        for workers in (0, 1, 2)
    ]

    assert_same_batches(passes[1], passes[0])
    assert_same_batches(passes[2], passes[0])
    noise = torch.cat([batch.inputs["number"].values for batch in passes[0]]).frac()
    assert len(noise.unique()) == 22  # no two samples have the same


# Resuming


@pytest.mark.parametrize("workers", [0, 2])
def test_a_new_loader_goes_on_after_any_batch(tmp_path, workers):
    write_numbers(tmp_path / "s", counts=(13, 4, 9))

    def make(workers=0):
        return load_shards(tmp_path / "s", make_reader(), train=True, batch_size=4, buffer=10, seed=5, workers=workers)

    whole = make()
    first, second = list(whole), list(whole)
    for taken in (0, 1, 3, len(second) - 1) if workers == 0 else (2,):
        killed = make(workers)
        list(killed)
        handed = list(itertools.islice(killed, taken))
        state = json.loads(json.dumps(killed.position(taken)))
        resumed = make(workers)
        resumed.start(state)

        rest = list(resumed)

        assert resumed.epoch == 2
        assert_same_batches(handed + rest, second)
    assert state["epoch"] == 1
    assert_same_batches(list(make()), first)


def test_after_a_whole_epoch_nothing_is_left_of_it(tmp_path):
    write_numbers(tmp_path / "s")
    loader = load_shards(tmp_path / "s", make_reader(), train=True)
    batches = list(loader)

    loader.start(loader.position(len(batches)))

    assert loader.epoch == 0
    assert list(loader) == []
    assert loader.epoch == 1


def test_setting_the_epoch_begins_another_one_and_keeps_a_resumed_one(tmp_path):
    write_numbers(tmp_path / "s")
    loader = load_shards(tmp_path / "s", make_reader(), train=True, batch_size=4)
    loader.epoch = 3

    loader.start(loader.position(2))
    loader.epoch = 3
    rest = list(loader)
    loader.epoch = 3
    again = list(loader)

    assert len(rest) == len(again) - 2
    assert_same_batches(rest, again[2:])


def test_the_middle_of_other_samples_is_refused(tmp_path):
    write_numbers(tmp_path / "s")
    loader = load_shards(tmp_path / "s", make_reader(), train=True, batch_size=4)
    other = load_shards(tmp_path / "s", make_reader(), train=True, batch_size=4, seed=7)

    with pytest.raises(
        ValueError, match="The loader of 4 shards in s cannot go on in the middle of epoch 0: it got seed=7 for 0. Exp"
    ):
        other.start(loader.position(1))

    loader.epoch = 1
    other.start(loader.position(0))
    assert other.epoch == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_left_is_read_by_another_number_of_ranks(tmp_path, as_rank, workers):
    write_numbers(tmp_path / "s", counts=(13, 4, 9))
    model = make_reader(number=lambda random: Number())
    loader = load_shards(tmp_path / "s", model, train=True, batch_size=2, buffer=5, workers=workers)
    used = []
    for rank in range(3):
        as_rank(rank, 3)
        loader.epoch = 0
        used += itertools.islice(loader, 2)

    position = loader.position(2)
    for rank in range(2):
        as_rank(rank, 2)
        loader.start(position)
        used += loader

    assert Counter(numbers_of(used)) == Counter(range(26))


def test_going_on_reads_no_sample_that_was_handed_out(tmp_path, monkeypatch):
    write_numbers(tmp_path / "s", counts=(30, 30))
    read = []
    original = TarReader.read
    monkeypatch.setattr(
        TarReader, "read", lambda self, header, most: read.append(header.name) or original(self, header, most)
    )
    loader = load_shards(tmp_path / "s", make_reader(), train=True, batch_size=4, buffer=8)
    loader.start(loader.position(12))
    read.clear()

    batches = list(loader)

    assert len({name[:6] for name in read}) == sum(len(batch.inputs["number"].present) for batch in batches) == 12


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_by_length_go_on_bit_for_bit_and_keep_memory(tmp_path, workers):
    folder = tmp_path / "s"
    folder.mkdir()
    for shard in range(3):
        names = [f"{shard}{i:03d}" for i in range(20)]
        cells = [(f"{name}.txt", b"a" * random.Random(name).randrange(1, 90)) for name in names]
        write_tar(folder / f"{shard}.tar", cells)
    model = make_reader(text=lambda random: Text())
    options = {"columns": {"label": None}, "batch_size": 4, "buffer": 18, "workers": workers}
    whole, resumed, plain = (
        load_shards(folder, model, train=True, bucket_by=by, **options) for by in ("text", {"text": 2.5}, None)
    )

    plain_batches, batches = list(plain), list(whole)
    resumed.start(json.loads(json.dumps({**whole.position(7), "order": resumed.position(0)["order"]})))

    assert_same_batches(list(resumed), batches[7:])
    assert len(plain_batches) == len(batches)
    assert whole.padding["total"] < 0.6 * plain.padding["total"]
    assert whole.dataset.most_held <= 20  # the buffer, in whole batches


# Memory


def test_memory_holds_one_buffer_whatever_the_number_of_samples(tmp_path):
    held = []
    for counts in ((50,) * 3, (50,) * 24, (1200,)):
        folder = write_numbers(tmp_path / str(len(held)), counts)
        loader = load_shards(folder, make_reader(), train=True, batch_size=8, buffer=64)
        assert sum(len(batch.inputs["number"].present) for batch in loader) == sum(counts)
        held.append(loader.dataset.most_held)

    assert max(held) <= 64 + 8
    assert loader.dataset._held == {}


# Faults


def test_no_shard_of_that_name(tmp_path):
    write_numbers(tmp_path / "s")

    with pytest.raises(DataError, match=r"No shard is named .*train-00001\.tar'.*Did you mean 'train-000001\.tar'"):
        load_shards(tmp_path / "s" / "train-00001.tar", make_reader())
    with pytest.raises(DataError, match="No shard is named"):
        load_shards(tmp_path / "s" / "test-*.tar", make_reader())
    with pytest.raises(DataError, match="got no shard"):
        load_shards([], make_reader())
    (tmp_path / "t").mkdir()
    with pytest.raises(DataError, match=r"has no file that ends in \.tar"):
        load_shards(tmp_path / "t", make_reader())


def test_patterns_and_braces_name_shards(tmp_path):
    folder = write_numbers(tmp_path / "s", counts=(2, 3, 4))

    sizes = [
        len(load_shards(shards, make_reader()).dataset)
        for shards in (f"{folder}/train-*.tar", f"{folder}/train-{{000001..000002}}.tar", [folder / "train-000000.tar"])
    ]

    assert sizes == [9, 7, 2]


@pytest.mark.parametrize("address", ["http://host/train-000000.tar", "s3://bucket/a.tar", "pipe:curl host"])
def test_addresses_are_refused(address):
    with pytest.raises(DataError, match=r"is an address or a command\. .* Download them first"):
        load_shards(address, make_reader())


def test_a_shard_that_comes_twice_is_refused(tmp_path):
    folder = write_numbers(tmp_path / "s", counts=(2,))

    with pytest.raises(DataError, match="Shards come twice"):
        load_shards([folder / "train-000000.tar", folder / "." / "train-000000.tar"], make_reader())


@pytest.mark.parametrize("cut", [1, 600, 1024, 5000])
def test_a_truncated_shard_is_an_error(tmp_path, cut):
    write_numbers(tmp_path / "s", counts=(3,))
    path = tmp_path / "s" / "train-000000.tar"
    content = path.read_bytes().rstrip(b"\0")
    end = len(content) + 512 - len(content) % 512
    path.write_bytes((content + b"\0" * 1024)[: end - cut] if cut > 1 else content[:-1])

    with pytest.raises(
        DataError, match=r"train-000000\.tar is damaged or breaks off: .*Copy, download or write it again"
    ):
        load_shards(tmp_path / "s", make_reader())


def test_an_index_tells_of_a_truncated_shard_at_once(tmp_path):
    write_shards([{"text": "a", "label": "odd"}] * 3, tmp_path / "s")
    path = tmp_path / "s" / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:-512])

    with pytest.raises(DataError, match="has 9728 bytes. Expected 10240, as when its samples were counted"):
        load_shards(tmp_path / "s", make_reader(text=lambda random: Text()))


@pytest.mark.parametrize("size", [600, 10**9, 5])
def test_a_member_that_lies_about_its_size_is_an_error(tmp_path, size):
    path = write_tar(tmp_path / "a.tar", [("1.number", b"3" * 600), ("1.txt", b"x" * 2000)])
    header = tarfile.TarInfo("1.number")
    header.size = size
    content = bytearray(path.read_bytes())
    content[:512] = header.tobuf(tarfile.USTAR_FORMAT)
    path.write_bytes(content)

    if size == 600:
        assert len(load_shards(path, make_reader())) == 1
    else:
        with pytest.raises(DataError, match=r"a\.tar is damaged or breaks off"):
            load_shards(path, make_reader())


def test_a_header_that_says_it_is_long_fills_no_memory(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**34
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))

    with pytest.raises(DataError, match=r"damaged or breaks off: a header of \d+ bytes"):
        load_shards(tmp_path, make_reader())


def header_of(kind, size):
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = kind, size
    return header.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "content",
    [
        header_of(tarfile.XHDTYPE, 0) * 3000,  # one in the other
        header_of(tarfile.XHDTYPE, -512),
        header_of(tarfile.REGTYPE, -512),
        header_of(tarfile.REGTYPE, -(2**60)),
        header_of(tarfile.XHDTYPE, 512) + b"99999999999 path=x".ljust(512, b"\0"),
        header_of(tarfile.XHDTYPE, 512) + b"12 size=9x9\n".ljust(512, b"\0") + header_of(tarfile.REGTYPE, 0),
    ],
)
def test_headers_that_would_trap_a_reader_are_errors(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content + bytes(10240))

    with pytest.raises(DataError, match=r"a\.tar (is damaged or breaks off|is refused)|have no sample"):
        load_shards(tmp_path, make_reader())


def special(name, kind, target=""):
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header, b""


@pytest.mark.parametrize(
    ("member", "what"),
    [
        (("/etc/1.number", b"1"), "has a name that leads out of it"),
        (("../1.number", b"1"), "has a name that leads out of it"),
        (("a/../../1.number", b"1"), "has a name that leads out of it"),
        (("..\\1.number", b"1"), "has a name that leads out of it"),
        (("n" * 5000 + ".txt", b"1"), "has a name of 5004 letters"),
        (special("1.number", tarfile.SYMTYPE, "/etc/passwd"), "is a link to '/etc/passwd'"),
        (special("1.number", tarfile.LNKTYPE, "0.number"), "is a link to '0.number'"),
        (special("1.number", tarfile.CHRTYPE), "is a device or pipe"),
        (special("1.number", tarfile.FIFOTYPE), "is a device or pipe"),
        (special("1.number", b"Z"), "is of kind b'Z'"),
        (special("1.number", tarfile.GNUTYPE_SPARSE), "is a file with holes"),
    ],
)
def test_members_that_are_no_plain_files_below_the_root_are_refused(tmp_path, member, what):
    write_tar(tmp_path / "a.tar", [("0.number", b"0"), member])

    with pytest.raises(DataError, match=r"a\.tar is refused: its member .* " + what):
        load_shards(tmp_path, make_reader())

    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_two_members_of_one_kind_in_a_sample_are_refused(tmp_path):
    write_tar(tmp_path / "a.tar", [("7.number", b"1"), ("7.NUMBER", b"2")])

    with pytest.raises(DataError, match=r"a\.tar has two members '7'\.number"):
        load_shards(tmp_path, make_reader())


def test_compressed_shards_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass

    with pytest.raises(DataError, match=r"a\.tar is compressed\. .* Unpack it once with gunzip"):
        load_shards(tmp_path, make_reader())


def test_two_tars_in_one_file_are_not_read_in_half(tmp_path):
    folder = write_numbers(tmp_path / "s", counts=(2, 2))
    one, two = sorted(folder.iterdir())
    one.write_bytes(one.read_bytes() + two.read_bytes())

    with pytest.raises(DataError, match="damaged or breaks off: what stands at byte .* is no member"):
        load_shards(one, make_reader())


@pytest.mark.parametrize("content", [b"", b"not a tar" * 100, b"\0" * 512, b"\0" * 10240])
def test_what_has_no_sample_is_refused(tmp_path, content):
    (tmp_path / "a.tar").write_bytes(content)

    with pytest.raises(DataError, match=r"has 0 bytes|damaged or breaks off|have no sample"):
        load_shards(tmp_path, make_reader())


def test_members_without_key_are_passed_over_and_told(tmp_path):
    write_tar(tmp_path / "a.tar", [("README", b"x"), ("__meta__/a.json", b"{}"), ("1.number", b"1"), ("1.txt", b"x")])

    with pytest.warns(UserWarning, match="1 members of the shards have no key or no extension"):
        loader = load_shards(tmp_path, make_reader())

    assert len(loader.dataset) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_member_that_cannot_be_read_is_named(tmp_path, workers):
    write_tar(tmp_path / "a.tar", [("1.number", b"1"), ("1.txt", b"x"), ("k.number.bin", b"one")])

    with pytest.raises(
        DataError,
        match=r"The shard a\.tar, key 'k', 'number': member k\.number\.bin: could not convert .* on_error='absent'",
    ):
        list(load_shards(tmp_path, make_reader(), workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_members_that_cannot_be_read_are_absent_or_skipped_and_counted(tmp_path, workers):
    members = [(f"{i}.number", b"x" if i == 3 else b"1") for i in range(8)]
    write_tar(
        tmp_path / "a.tar",
        [part for i, m in enumerate(members) for part in (m, (f"{i}.txt", b"t"), (f"{i}.json", b'{"label": "odd"}'))],
    )

    for on_error in ("absent", "skip"):
        loader = load_shards(tmp_path, make_reader(), batch_size=4, workers=workers, on_error=on_error, max_errors=0.5)
        batch = next(iter(loader))

        assert batch.inputs["number"].present.tolist() == [True, True, True, False]
        assert batch.inputs["text"].present.tolist() == [True, True, True, on_error == "absent"]
        assert batch.targets["label"].known.tolist() == [True, True, True, on_error == "absent"]
        assert loader.dataset.report.rows == [3]
        assert "The shard a.tar, sample 3, 'number': key '3': could not convert" in str(loader.dataset.report)


@pytest.mark.parametrize(
    ("member", "what"),
    [
        (("1.txt", b"\xff\xfe\xfa"), "It is not UTF-8 text"),
        (("1.txt", b"x" * 300), "It has 300 bytes. Expected at most 200"),
        (("1.json", b'{"text": '), "It is not JSON"),
        (("1.json", b"[" * 199), "It is not JSON"),
    ],
)
def test_members_that_are_not_what_they_say_are_named(tmp_path, member, what):
    write_tar(tmp_path / "a.tar", [("0.txt", b"x"), member])
    model = make_reader(text=lambda random: Text())

    with pytest.raises(DataError, match=rf"The shard a\.tar, key '1', 'text':.* {what}"):
        list(load_shards(tmp_path, model, max_bytes=200))

    loader = load_shards(tmp_path, model, columns={"label": None}, max_bytes=200, on_error="absent")
    (batch,) = loader
    assert batch.inputs["text"].present.tolist() == [True, False]
    assert loader.dataset.report.rows == [1]


def test_a_label_that_cannot_be_read_raises_or_skips_its_sample(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.txt", b"x"), ("0.json", b'{"label": "odd"}'), ("1.txt", b"y"), ("1.json", b"{")])
    model = make_reader(text=lambda random: Text())

    with pytest.raises(DataError, match=r"a\.tar, key '1', label of 'label': It is not JSON: .* on_error='skip'"):
        list(load_shards(tmp_path, model, on_error="absent"))

    loader = load_shards(tmp_path, model, on_error="skip")
    (batch,) = loader
    assert batch.targets["label"].known.tolist() == batch.inputs["text"].present.tolist() == [True, False]
    assert "key '1': label of 'label': It is not JSON" in str(loader.dataset.report)


def test_a_label_that_is_not_a_class_is_named(tmp_path):
    write_tar(tmp_path / "a.tar", [("k1.txt", b"x"), ("k1.cls", b"od")])

    with pytest.raises(
        DataError, match=r"a\.tar, sample 0, key 'k1', label of 'label': label 'od' is not a class.*'odd'"
    ):
        list(load_shards(tmp_path, make_reader(text=lambda random: Text())))


def test_a_column_that_is_nowhere_is_named_with_the_nearest(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.nunber", b"1"), ("1.txt", b"x"), ("1.json", b'{"labels": 1}')])

    with pytest.raises(DataError, match="The shards have no 'number': .*Did you mean 'nunber'"):
        load_shards(tmp_path, make_reader())
    with pytest.raises(DataError, match="The shards have no 'label': .*Did you mean 'labels'"):
        load_shards(tmp_path, make_reader(text=lambda random: Text()), train=True)
    with pytest.raises(ValueError, match="unknown column 'txet'.*Did you mean 'text'"):
        load_shards(tmp_path, make_reader(), columns={"txet": "txt"})


def test_paths_in_shards_are_not_followed(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.json", b'{"number": "/etc/passwd", "text": "x"}')])

    with pytest.raises(DataError, match="It is the text '/etc/passwd'. .* paths in shards are not followed"):
        list(load_shards(tmp_path, make_reader()))


def test_a_shard_that_changes_after_it_was_counted_is_an_error(tmp_path):
    write_numbers(tmp_path / "s", counts=(3, 3))
    loader = load_shards(tmp_path / "s", make_reader())
    path = tmp_path / "s" / "train-000001.tar"

    fewer = write_tar(tmp_path / "fewer.tar", [("1.number", b"1"), ("1.txt", b"x")]).read_bytes()
    path.write_bytes(fewer + bytes(path.stat().st_size - len(fewer)))

    with pytest.raises(DataError, match="has fewer samples than the 3 that were counted"):
        list(loader)


@pytest.mark.plain
def test_what_names_no_shards_is_refused():
    with pytest.raises(TypeError, match="load_shards got a int. Expected shards: a folder"):
        load_shards(3, make_reader())


def test_the_rank_is_that_of_the_environment_of_torchrun(tmp_path, monkeypatch):
    write_numbers(tmp_path / "s", counts=(3,))
    loader = load_shards(tmp_path / "s", make_reader())

    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))

    assert numbers_of(loader) == [1, 2]


# Writing


def test_files_are_copied_as_they_are_and_other_cells_are_json(tmp_path):
    (tmp_path / "a.JPG").write_bytes(b"picture")
    rows = [{"image": "a.JPG", "text": "é", "age": 3, "depth": np.arange(3.0), "id": "k"}, {"text": "b", "id": "l"}]

    (shard,) = write_shards(rows, tmp_path / "s", files=["image"], key="id", root=tmp_path)

    with tarfile.open(shard.path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert members["k.image.jpg"] == b"picture"
    assert json.loads(members["k.json"]) == {"text": "é", "age": "3"}
    assert json.loads(members["l.json"])["text"] == "b"
    assert np.lib.format.read_array(io.BytesIO(members["k.depth.npy"])).tolist() == [0, 1, 2]
    assert (shard.samples, shard.bytes) == (2, shard.path.stat().st_size)


def test_the_index_says_what_counting_would_find(tmp_path):
    table = read_table(write_rows(tmp_path))
    written = write_shards(table, tmp_path / "s", files=["image", "audio"], per_shard=5, seed=0)
    (tmp_path / "s" / "index.json").unlink()

    counted = index_shards(tmp_path / "s")

    assert [(s.path, s.samples, s.bytes, s.crc32) for s in counted] == [
        (s.path, s.samples, s.bytes, s.crc32) for s in written
    ]
    verify_shards(tmp_path / "s")


def test_one_changed_bit_is_found(tmp_path):
    (shard,) = write_shards([{"text": "a"}], tmp_path / "s")
    content = bytearray(shard.path.read_bytes())
    content[515] ^= 1
    shard.path.write_bytes(content)

    with pytest.raises(DataError, match=r"shard-000000\.tar is not what was written: its CRC-32"):
        verify_shards(tmp_path / "s")


@pytest.mark.parametrize("change", [{"samples": -1}, {"samples": "many"}, {"bytes": None}, {"name": None}])
def test_an_index_that_says_nothing_useful_is_refused(tmp_path, change):
    write_shards([{"text": "a"}], tmp_path / "s")
    path = tmp_path / "s" / "index.json"
    index = json.loads(path.read_text())
    index["shards"][0] |= change
    if change == {"name": None}:
        del index["shards"][0]["name"]
    path.write_text(json.dumps(index))

    with pytest.raises(DataError, match=r"index\.json in .* does not say how many samples .* call index_shards"):
        load_shards(tmp_path / "s", make_reader())


def test_an_index_of_somebody_else_is_not_read(tmp_path):
    folder = write_numbers(tmp_path / "s", counts=(3,))
    (folder / "index.json").write_text('{"__kind__": "wids-shard-index-v1", "shardlist": []}')

    assert len(load_shards(folder, make_reader()).dataset) == 3


def test_nothing_is_left_of_shards_that_could_not_be_written(tmp_path):
    rows = [{"text": "a", "id": "k"}, {"text": "b", "id": "k"}]

    with pytest.raises(DataError, match="row 1 of .*: the key 'k' comes twice"):
        write_shards(rows, tmp_path / "s", key="id")
    with pytest.raises(DataError, match="'a.b' cannot be a key"):
        write_shards([{"id": "a.b"}], tmp_path / "s", key="id")
    with pytest.raises(DataError, match="row 0 of .*, column 'image': no such file .* Mend or empty the cell"):
        write_shards([{"image": "none.jpg"}], tmp_path / "s", files=["image"], root=tmp_path)
    with pytest.raises(DataError, match="the column of 'json' cannot name a member"):
        write_shards([{"json": b"1"}], tmp_path / "s")
    with pytest.raises(DataError, match="got no rows"):
        write_shards(iter([]), tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_are_not_overwritten(tmp_path):
    write_shards([{"text": "a"}], tmp_path / "s")

    with pytest.raises(ValueError, match="write_shards found files in .*Expected a new folder"):
        write_shards([{"text": "a"}], tmp_path / "s")
    with pytest.raises(ValueError, match="got a seed, and rows that can be read only once"):
        write_shards([{"text": "a"}], tmp_path / "t", seed=1)


@pytest.mark.filterwarnings("ignore:1 rows could not be read")
def test_answers_have_the_keys_of_their_samples(tmp_path):
    table = read_table(write_rows(tmp_path))
    (tmp_path / "9.wav").write_bytes(b"no sound")
    write_shards(table, tmp_path / "shards", files=["image", "audio"], per_shard=5)
    model = make_model().eval()

    alone = predict(model, load_shards(tmp_path / "shards", model, batch_size=2, on_error="skip"))
    by_length = predict(model, load_shards(tmp_path / "shards", model, batch_size=2, on_error="skip", bucket_by="text"))

    assert [row["key"] for row in by_length] == [row["key"] for row in alone]
    assert [row["kind_predicted"] for row in by_length] == [row["kind_predicted"] for row in alone]
    assert [row["key"] for row in alone] == [f"{i:09d}" for i in range(12)]
    assert [row["key"] for row in alone if row["kind_predicted"] is None] == ["000000009"]
    assert {row["shard"] for row in alone} == {path.name for path in (tmp_path / "shards").glob("*.tar")}
    assert [row.get("text") for row in alone] == table.column("text")
