"""Mixup over all modalities and labels, against its equations."""

import pickle
import random
from types import SimpleNamespace

import pytest
import torch
from tiny_loader import Letters, Number, model_of

from mmfuse import Batch, Features, Fused, Input, Output, Target
from mmfuse.data import Mixup, load_batches, read_table
from mmfuse.data.loading.mixup import draw_partners, mix_batch
from mmfuse.data.transforms import Augment, TabularTransform
from mmfuse.losses import task_losses
from mmfuse.tasks import Classification, EachModality, EvidentialClassification, MultiLabel, Regression

SIX = 6


def mask_of(lengths, time):
    return torch.arange(time) < torch.tensor(lengths)[:, None]


def random_batch(rows=SIX, seed=0):
    """Vectors, sequences, ids and images; some are absent, some labels unknown; NaN in what is not real."""
    g = torch.Generator().manual_seed(seed)
    present = torch.arange(rows) != 1
    sequence = mask_of([3, 0, 5, 1, 2, 4], 5)
    series = torch.randn(rows, 5, 2, generator=g, dtype=torch.float64).masked_fill(~sequence[..., None], torch.nan)
    ids = torch.randint(1, 50, (rows, 5), generator=g)
    return Batch(
        {
            "vector": Input(torch.randn(rows, 3, generator=g, dtype=torch.float64), torch.ones(rows, dtype=torch.bool)),
            "series": Input(series, present, sequence),
            "text": Input(ids, present, sequence),
            "image": Input(torch.randint(0, 256, (rows, 3, 2, 2), generator=g, dtype=torch.uint8), present),
        },
        {
            "kind": Target(torch.randint(0, 3, (rows,), generator=g), torch.arange(rows) != 3),
            "tags": Target(torch.randint(0, 2, (rows, 4), generator=g).double(), torch.ones(rows, dtype=torch.bool)),
            "size": Target(torch.randn(rows, generator=g, dtype=torch.float64), torch.ones(rows, dtype=torch.bool)),
        },
    )


TASKS = {"kind": Classification(4, 3), "tags": MultiLabel(4, 4), "size": EachModality(Regression(4), ["a"])}
LIMITS = {"text": SimpleNamespace(max_length=6)}


def mixed(share, partner=(2, 1, 4, 3, 5, 0), transforms=LIMITS):
    batch = random_batch()
    share = torch.tensor(share, dtype=torch.float64).expand(SIX)
    return batch, mix_batch(batch, torch.tensor(partner), share, TASKS, transforms)


def test_mixing_equals_its_equation_row_by_row():
    partner, share = [2, 1, 4, 3, 5, 0], [0.3, 1.0, 0.5, 1.0, 0.75, 0.9]

    batch, found = mixed(share, partner)

    for i, (j, s) in enumerate(zip(partner, share, strict=True)):
        vector = batch.inputs["vector"].values
        torch.testing.assert_close(
            found.inputs["vector"].values[i], s * vector[i] + (1 - s) * vector[j], rtol=0, atol=1e-12
        )
        real = batch.inputs["series"].mask
        for t in range(5):
            expected = sum(
                part * batch.inputs["series"].values[row, t]
                for part, row in ((s, i), (1 - s, j))
                if real[row, t] and part > 0
            )
            assert found.inputs["series"].mask[i, t] == bool(real[i, t] or (s < 1 and real[j, t]))
            if found.inputs["series"].mask[i, t]:
                torch.testing.assert_close(found.inputs["series"].values[i, t], expected, rtol=0, atol=1e-12)
        image = batch.inputs["image"].zeroed().values.double()
        expected = (s * image[i] + (1 - s) * image[j]).round()
        assert (found.inputs["image"].values[i].double() - expected).abs().max() <= 1  # halves are rounded in float32
        assert found.inputs["image"].values.dtype == torch.uint8
        kind = batch.targets["kind"].values
        expected = torch.zeros(3, dtype=torch.float64)
        expected[kind[i]] += s
        expected[kind[j]] += 1 - s
        torch.testing.assert_close(found.targets["kind"].values[i], expected, rtol=0, atol=1e-12)
        for name in ("tags", "size"):
            label = batch.targets[name].values
            torch.testing.assert_close(
                found.targets[name].values[i], s * label[i] + (1 - s) * label[j], rtol=0, atol=1e-12
            )
    for name, given in batch.inputs.items():
        assert torch.equal(found.inputs[name].present, given.present)
    for name, target in batch.targets.items():
        assert torch.equal(found.targets[name].known, target.known)


def test_the_share_of_one_changes_nothing():
    batch, found = mixed(1.0)

    for name, given in batch.inputs.items():
        real = given.zeroed().values
        width = found.inputs[name].values.shape[1]
        assert torch.equal(found.inputs[name].zeroed().values, real[:, :width] if given.mask is not None else real)
        if given.mask is not None:
            assert torch.equal(found.inputs[name].mask, given.mask[:, :width])
    assert torch.equal(found.targets["kind"].values.argmax(dim=1), batch.targets["kind"].values)
    assert torch.equal(found.targets["kind"].values.max(dim=1).values, torch.ones(SIX, dtype=torch.float64))
    assert torch.equal(found.targets["size"].values, batch.targets["size"].values)


@pytest.mark.parametrize(
    ("share", "limit", "lengths"),
    [
        (0.5, 100, [8, 0, 7, 1, 6, 7]),  # all of both
        (0.5, 4, [4, 0, 4, 1, 4, 4]),
        (0.25, 4, [4, 0, 4, 1, 4, 4]),
        (1.0, 4, [3, 0, 4, 1, 2, 4]),
    ],
)
def test_ids_are_joined_and_kept_within_the_limit(share, limit, lengths):
    partner = [2, 1, 4, 3, 5, 0]
    share = torch.tensor([share] * SIX).where(torch.tensor(partner) != torch.arange(SIX), 1.0).tolist()

    batch, found = mixed(share, partner, {"text": SimpleNamespace(max_length=limit)})

    text = found.inputs["text"]
    assert text.mask.sum(dim=1).tolist() == lengths
    for i, j in enumerate(partner):
        own = batch.inputs["text"].values[i][batch.inputs["text"].mask[i]].tolist()
        other = batch.inputs["text"].values[j][batch.inputs["text"].mask[j]].tolist() if share[i] < 1 else []
        kept = min(len(own), max(round(share[i] * limit), limit - len(other)))
        assert text.values[i][text.mask[i]].tolist() == own[:kept] + other[: limit - kept]


def test_without_a_limit_the_longest_of_the_batch_is_one():
    _, found = mixed(0.5, transforms={})

    assert found.inputs["text"].mask.sum(dim=1).max() == 5


def test_the_loss_of_a_mixed_label_is_the_mixed_loss():
    g = torch.Generator().manual_seed(1)
    first, second, share = torch.tensor([0, 2, 1]), torch.tensor([1, 2, 0]), torch.tensor([0.3, 0.6, 1.0]).double()
    logits = torch.randn(3, 3, generator=g, dtype=torch.float64)
    task = Classification(4, 3)

    found = task.loss(logits, task.mix(first, second, share))

    expected = share * task.loss(logits, first) + (1 - share) * task.loss(logits, second)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    tags, one, other = MultiLabel(4, 3), *torch.randint(0, 2, (2, 3, 3), generator=g).double()
    expected = share * tags.loss(logits, one) + (1 - share) * tags.loss(logits, other)
    torch.testing.assert_close(tags.loss(logits, tags.mix(one, other, share)), expected, rtol=0, atol=1e-14)


def test_mixed_labels_can_be_mixed_again():
    task = Classification(4, 2)
    half = task.mix(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.5]))

    assert task.mix(half, torch.tensor([1]), torch.tensor([0.5])).tolist() == [[0.25, 0.75]]


def test_partners_have_the_same_modalities_and_labels_and_nobody_is_his_own_unless_alone():
    batch = random_batch()

    partner = draw_partners(batch, random.Random(0))

    assert sorted(partner.tolist()) == list(range(SIX))
    assert partner[1] == 1 and partner[3] == 3  # alone in what they lack
    others = [0, 2, 4, 5]
    assert all(partner[row] in others and partner[row] != row for row in others)


def test_a_batch_is_mixed_by_its_key_alone():
    mix = Mixup(0.4)
    runs = [
        mix(random_batch(), TASKS, LIMITS, key, rows).inputs["vector"].values
        for key, rows in (((0, 1), range(6)), ((0, 1), list(range(6))), ((0, 2), range(6)), ((0, 1), range(1, 7)))
    ]

    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0], runs[3])


def test_one_share_for_the_batch():
    batch = Batch({"x": Input(torch.arange(4.0)[:, None], torch.ones(4, dtype=torch.bool))})

    values = Mixup(1.0, each_row=False)(batch, {}, {}, (5,), range(4)).inputs["x"].values[:, 0]

    partner = draw_partners(batch, random.Random(repr(("mixup", 5, [0, 1, 2, 3]))))
    shares = (values - partner) / (torch.arange(4.0) - partner)
    torch.testing.assert_close(shares, shares[:1].expand(4), rtol=0, atol=1e-5)
    assert 0 < shares[0] < 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_mixes_alike_in_any_number_of_workers(workers):
    table = read_table([{"x": i, "text": "abcdefgh"[: i % 5 + 1], "y": "ab"[i % 2]} for i in range(12)])
    model = model_of(x=Number(), text=Letters())
    plain, mixing = (
        load_batches(table, model, train=True, batch_size=4, seed=2, workers=w, mix=m)
        for w, m in ((0, None), (workers, Mixup(1.0)))
    )

    for _ in range(2):
        for given, found in zip(plain, mixing, strict=True):
            rows = given.inputs["x"].values[:, 0].int().tolist()
            expected = Mixup(1.0)(given, model.tasks, mixing.dataset.transforms, (2, mixing.epoch - 1), rows)
            torch.testing.assert_close(found.inputs["x"].values, expected.inputs["x"].values, rtol=0, atol=0)
            assert torch.equal(found.inputs["text"].values, expected.inputs["text"].values)
            assert torch.equal(found.targets["y"].values, expected.targets["y"].values)
            assert not torch.equal(found.inputs["x"].values, given.inputs["x"].values)


def test_a_transform_may_say_how_it_is_mixed():
    class Takes:
        def mix(self, first, second, share):
            return second

    batch = Batch({"x": Input(torch.arange(3)[:, None], torch.ones(3, dtype=torch.bool))})

    found = mix_batch(batch, torch.tensor([1, 2, 0]), torch.full((3,), 0.5), {}, {"x": Takes()})

    assert found.inputs["x"].values[:, 0].tolist() == [1, 2, 0]


def test_the_losses_of_mixed_batches_pass_over_unknown_labels():
    batch, found = mixed(0.5)
    logits = torch.randn(SIX, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = Features.from_pooled(logits, torch.ones(SIX, dtype=torch.bool))
    output = Output({}, Fused(features), {"kind": logits})

    losses = task_losses(TASKS, output, {"kind": found.targets["kind"]})

    known = batch.targets["kind"].known
    each = TASKS["kind"].loss(logits, found.targets["kind"].values)
    torch.testing.assert_close(losses["kind"], each[known].mean(), rtol=0, atol=1e-14)


def test_categories_and_gaps_of_a_table_are_never_between_two():
    transform = TabularTransform(numbers={"age": [40.0, 10.0], "weight": [70.0, 5.0]}, categories={"sex": ["f", "m"]})
    rows = [{"age": 30, "weight": None, "sex": "f"}, {"age": 50, "weight": 75, "sex": "m"}]
    batch = Batch({"table": Input(torch.stack([transform(row) for row in rows]), torch.ones(2, dtype=torch.bool))})

    found = mix_batch(batch, torch.tensor([1, 0]), torch.tensor([0.75, 0.25]), {}, {"table": transform})

    # age, weight, age known, weight known, sex
    assert found.inputs["table"].values.tolist() == [[-0.5, 0.0, 1.0, 0.0, 2.0], [-0.5, 0.0, 1.0, 0.0, 2.0]]


def test_what_is_augmented_is_mixed_as_its_transform_says():
    table = TabularTransform(categories={"ward": ["a", "b", "c"]})
    text = SimpleNamespace(max_length=6, takes_path=False, padding=0)

    augmented = pickle.loads(pickle.dumps(Augment(table, [])))

    given = Input(torch.tensor([[2.0], [4.0]]), torch.ones(2, dtype=torch.bool))
    found = mix_batch(Batch({"x": given}, {}), torch.tensor([1, 0]), torch.tensor([0.6, 0.3]), {}, {"x": augmented})
    assert found.inputs["x"].values.tolist() == [[2.0], [2.0]]
    assert Augment(text, []).max_length == 6


def test_frames_that_are_not_real_count_as_zeros():
    frames = torch.full((2, 3, 1), 200, dtype=torch.uint8)
    clip = Input(frames, torch.ones(2, dtype=torch.bool), torch.tensor([[True] * 3, [True, False, False]]))

    found = mix_batch(Batch({"clip": clip}), torch.tensor([1, 0]), torch.full((2,), 0.25), {}, {}).inputs["clip"]

    assert found.values[..., 0].tolist() == [[200, 50, 50], [200, 150, 150]]
    assert found.mask.all()


@pytest.mark.plain
def test_what_cannot_be_mixed_is_refused():
    table = read_table([{"x": 1, "y": "a"}, {"x": 2, "y": "b"}])
    model = model_of({"y": EvidentialClassification(["a", "b"])}, x=Number())

    with pytest.raises(ValueError, match=r"Mixup cannot mix the labels of the task 'y' \(EvidentialClassification\)"):
        load_batches(table, model, train=True, mix=Mixup())
    nested = model_of({"y": EachModality(EvidentialClassification(["a", "b"]), ["x"])}, x=Number())
    with pytest.raises(ValueError, match=r"Mixup cannot mix the labels of the task 'y' \(EachModality\)"):
        load_batches(table.take([0, 1]), nested, mix=Mixup(), train=True)
    with pytest.raises(ValueError, match="load_batches got mix without train=True"):
        load_batches(table, model_of(x=Number()), mix=Mixup())
    with pytest.raises(ValueError, match="Mixup got alpha=0"):
        Mixup(0)
    batch = Batch({"x": Input(torch.arange(3)[:, None], torch.ones(3, dtype=torch.bool))})
    with pytest.raises(ValueError, match=r"Mixup cannot mix the modality 'x': torch.int64 of shape \(3, 1\)"):
        Mixup()(batch, {}, {}, (), range(3))
