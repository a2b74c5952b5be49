"""Frozen encoders run once: what is read from the cache is what they gave, and nothing stale is read."""

import copy
import os
import pickle
import re

import numpy as np
import pytest
import torch
from cached_parts import (
    DIM,
    LetterEncoder,
    LetterTransform,
    RandomTransform,
    ScaleEncoder,
    cache,
    calls,
    make_parts,
    make_table,
    one_thread,  # noqa: F401  a fixture for all tests
)

import mmfuse
from mmfuse import MultimodalModel
from mmfuse.data import DataError, Mixup, load_batches, load_shards, write_shards
from mmfuse.encoders import FeatureEncoder
from mmfuse.evaluation import evaluate, predict
from mmfuse.fusion import FUSIONS
from mmfuse.tasks import Classification
from mmfuse.training import fit
from mmfuse.training.caching import cache_features, fingerprint, shards, verify_features
from mmfuse.training.caching.frozen import modalities_read_as_tokens


def features_of(model, table, **options):
    """What the encoders of a model make of each row of a table."""
    model.eval()
    with torch.no_grad():
        return [model(batch).features for batch in load_batches(table, model, **options)]


# What is read is what the encoder gave.


@pytest.mark.parametrize("fusion", ["Concat", "PerceiverFusion", "MulT"])
def test_answers_from_the_cache_equal_those_from_the_files_bit_for_bit(tmp_path, fusion):
    table, model = make_table(tmp_path), make_parts(fusion=fusion)

    cached = cache(model, table, tmp_path / "cache")

    for rows in (table, table.take(range(3, 17)), table.take([5, 5, 2])):
        expected, found = (predict(m, load_batches(rows, m, batch_size=4)) for m in (model, cached))
        assert found == expected


@pytest.mark.parametrize("gaps", [False, True])
def test_tokens_masks_and_pooled_vectors_come_back_as_they_were(tmp_path, gaps):
    table, model = make_table(tmp_path), make_parts(fusion="PerceiverFusion", gaps=gaps)

    cached = cache(model, table, tmp_path / "cache", batch_size=5)

    pairs = zip(features_of(model, table, batch_size=6), features_of(cached, table, batch_size=6), strict=True)
    for expected, found in pairs:
        for name in ("words", "sensor"):
            want, got = expected[name].zeroed(), found[name].zeroed()
            steps = max(1, int(want.mask.sum(dim=0).bool().nonzero().max()) + 1)  # what is padding in all is cut off
            assert torch.equal(got.present, want.present)
            assert torch.equal(got.pooled, want.pooled)
            assert torch.equal(got.mask[:, :steps], want.mask[:, :steps])
            assert torch.equal(got.tokens[:, :steps], want.tokens[:, :steps])
            assert not got.mask[:, steps:].any()


def test_training_on_the_cache_equals_training_on_the_files_bit_for_bit(tmp_path):
    table = make_table(tmp_path)
    whole_model, model = make_parts(), make_parts()
    whole_model.encoders["sensor"].dropout.p = 0.0  # the cache answers as in evaluation
    cached = cache(model, table, tmp_path / "cache")

    histories = [
        fit(m, load_batches(table, m, train=True, batch_size=7), load_batches(table, m), epochs=3, progress=False)
        for m in (whole_model, cached)
    ]

    losses = [[row["train/loss"] for row in history.epochs] for history in histories]
    assert losses[0] == losses[1]
    for name, weights in whole_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights), name


def test_what_is_trained_and_saved_is_the_whole_model(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    before = {name: weights.clone() for name, weights in model.encoders.state_dict().items()}
    cached = cache(model, table, tmp_path / "cache")

    fit(cached, load_batches(table, cached, train=True), epochs=2, learning_rate=0.1, progress=False)
    mmfuse.save(cached, tmp_path / "saved")

    own = {name: type(encoder) for name, encoder in model.encoders.items()}
    loaded = mmfuse.load(tmp_path / "saved", classes=own | {kind.__name__: kind for kind in own.values()})
    assert predict(loaded, load_batches(table, loaded)) == predict(cached, load_batches(table, cached))
    for name, weights in model.encoders.state_dict().items():
        assert torch.equal(weights, before[name]) != name.startswith("more"), name  # that one learns beside them
        assert torch.equal(loaded.encoders.state_dict()[name], weights)
    assert "encoders.words.letters.weight" not in cached.state_dict()


def test_a_run_on_the_cache_is_taken_up_bit_for_bit(tmp_path):
    table, ends = make_table(tmp_path), []

    def stop(step, values):
        if step == 7:
            raise KeyboardInterrupt

    def train(folder, log=()):
        model = make_parts()
        cached = cache(model, table, tmp_path / "cache")
        batches = load_batches(table, cached, train=True, batch_size=8)
        options = {"folder": tmp_path / folder, "resume": True, "save_every": 2, "log_every": 1, "progress": False}
        fit(cached, batches, epochs=4, log=log, **options)
        ends.append(model.state_dict())

    train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("parts", stop)
    train("parts")

    for name, weights in ends[0].items():
        assert torch.equal(ends[1][name], weights), name


def test_features_are_kept_without_padding_and_padded_to_the_longest_of_a_batch(tmp_path):
    table, model = make_table(tmp_path), make_parts(fusion="PerceiverFusion")

    cached = cache(model, table, tmp_path / "cache")

    (path,) = shards.shards_of(tmp_path / "cache" / "words")
    texts = {text for text in table.column("words") if text}
    assert len(shards.read_shard(path)["values"]) == sum(1 + len(text) for text in texts)
    short = next(iter(load_batches(table.take([0, 1, 2]), cached)))
    assert short.inputs["words"].values.shape == (3, 1 + 3, DIM)


def test_a_cell_that_comes_often_is_encoded_once_and_the_next_call_encodes_nothing(tmp_path):
    table, model = make_table(tmp_path, rows=10), make_parts()
    twice = table.take([*range(10), *range(10)])

    cache(model, twice, tmp_path / "cache")
    first = calls(model)
    cache(model, twice, tmp_path / "cache")

    present = {name: len([cell for cell in table.column(name) if cell]) for name in ("words", "sensor")}
    assert first == present
    assert calls(model) == first


def test_features_follow_the_content_of_a_file_and_not_its_name(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    cache(model, table, tmp_path / "cache")
    first = calls(model)["sensor"]
    (tmp_path / "20.npy").rename(tmp_path / "renamed.npy")
    np.save(tmp_path / "21.npy", np.ones(DIM, np.float32))
    os.utime(tmp_path / "23.npy")
    cells = ["renamed.npy" if cell == "20.npy" else cell for cell in table.column("sensor")]
    other = table.with_column("sensor", cells)

    cached = cache(model, other, tmp_path / "cache")

    assert calls(model)["sensor"] == first + 1  # 21.npy
    assert predict(cached, load_batches(other, cached)) == predict(model, load_batches(other, model))


def test_tables_share_a_folder(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    first, second = table.take(range(9)), table.take(range(9, 24))

    cached = cache(model, first, tmp_path / "cache")
    cache(model, second, tmp_path / "cache")

    assert len(predict(cached, load_batches(table, cached))) == 24
    assert len(shards.shards_of(tmp_path / "cache" / "words")) == 1  # joined


def test_all_kinds_of_cells_are_told_apart(tmp_path):
    from PIL import Image

    from mmfuse.training.caching.keys import Keys

    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    (tmp_path / "a.txt").write_bytes(b"a")
    (tmp_path / "a.csv").write_bytes(b"a")
    values = ["a", b"a", tmp_path / "a.txt", tmp_path / "a.csv", 1, 1.0, True, ["a"], [["a"]], {"a": None}, {"a": "a"}]
    values += [pixels, pixels.astype(np.int8), pixels.reshape(-1), torch.from_numpy(pixels), (np.zeros(3), 16000)]
    values += [Image.fromarray(pixels), Image.fromarray(pixels).convert("L"), [1, 2], ["1, 2"], np.float32(1)]
    keys = Keys(tmp_path)

    found = [keys.of(value) for value in values]

    assert len({len(key) for key in found}) == 1
    assert len(set(found)) == len(found)
    assert found == [keys.of(value) for value in values]
    for odd in (object(), np.array([object()])):
        with pytest.raises(TypeError, match=r"A cell is an? .*\. Expected .*numbers"):
            keys.of(odd)


# What is not right is refused.


def test_an_encoder_that_learns_is_refused(tmp_path):
    table, model = make_table(tmp_path), make_parts(freeze=False)

    with pytest.raises(ValueError, match="no frozen encoder: so many parameters learn in each: {'words': 1, 'sensor'"):
        cache(model, table, tmp_path / "cache")
    with pytest.raises(ValueError, match="encoder of 'words' learns: 1 of its parameters .* such as 'letters.weight'"):
        cache(model, table, tmp_path / "cache", modalities=["words"])
    assert not (tmp_path / "cache").exists()


@pytest.mark.plain
def test_what_is_given_is_checked(tmp_path):
    table, model = make_table(tmp_path), make_parts()

    for error, match, arguments in (
        (TypeError, "got a list. Expected a table", (model, [])),
        (TypeError, "got a LetterEncoder. Expected a MultimodalModel", (LetterEncoder(), table)),
        (ValueError, "table without rows", (model, table.take([]))),
    ):
        with pytest.raises(error, match=match):
            cache(*arguments, tmp_path / "cache")
    for match, options in (
        (r"modalities=...\): unknown modality 'wrods'.*Did you mean 'words'", {"modalities": ["wrods"]}),
        (r"transforms=...\): unknown modality 'more'", {"transforms": {"more": None}}),
        ("keep='all'", {"keep": "all"}),
        ("dtype='int8'", {"dtype": "int8"}),
        ("batch_size=0", {"batch_size": 0}),
        ("workers=0.5", {"workers": 0.5}),
        ("on_error='ignore'", {"on_error": "ignore"}),
    ):
        with pytest.raises((ValueError, TypeError), match=match):
            cache(model, table, tmp_path / "cache", **options)
    with pytest.raises(ValueError, match=r"whose encoders of \['words', 'sensor'\] are cached already"):
        cache(cache(model, table, tmp_path / "cache"), table, tmp_path / "cache")


def test_a_random_transform_is_refused(tmp_path):
    table, model = make_table(tmp_path), make_parts()

    with pytest.raises(
        ValueError, match=r"transform of 'sensor' \(RandomTransform\) is random.*transform\(train=False\)"
    ):
        cache(model, table, tmp_path / "cache", transforms={"sensor": RandomTransform(DIM)})


def test_one_vector_is_not_kept_where_tokens_are_read(tmp_path):
    table, model = make_table(tmp_path), make_parts(fusion="PerceiverFusion")

    with pytest.raises(ValueError, match=r"keep='pooled', but the model reads the tokens of \['sensor', 'words'\]"):
        cache(model, table, tmp_path / "cache", keep="pooled")


def test_tokens_that_are_kept_serve_a_fusion_of_vectors_and_not_the_other_way_round(tmp_path):
    table, vectors, tokens = make_table(tmp_path), make_parts(), make_parts(fusion="PerceiverFusion")

    whole = cache(vectors, table, tmp_path / "tokens", keep="tokens")
    cached = cache(vectors, table, tmp_path / "tokens")
    cache(tokens, table, tmp_path / "tokens")
    cache(vectors, table, tmp_path / "vectors")

    assert calls(tokens) == {"words": 0, "sensor": 0}
    expected = predict(vectors, load_batches(table, vectors))
    for model, axes in ((whole, 3), (cached, 2)):
        assert next(iter(load_batches(table, model))).inputs["words"].values.dim() == axes
        assert predict(model, load_batches(table, model)) == expected
    with pytest.raises(ValueError, match="stale: tokens are read, and it holds pooled vectors alone"):
        cache(tokens, table, tmp_path / "vectors")


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_is_asked_what_it_reads(name):
    dims = {"a": 6, "b": 6}
    fusion = FUSIONS[name](dims, 8)
    encoders = {name: ScaleEncoder() for name in dims}
    model = MultimodalModel(encoders, fusion, {"kind": Classification(8, ["x", "y"])})

    found = modalities_read_as_tokens(model)

    assert bool(found) == (fusion.reads == "tokens")


def change_weights(model, monkeypatch):
    with torch.no_grad():
        model.encoders["words"].letters.weight[3] += 1e-3


def change_settings(model, monkeypatch):
    model.encoders["words"].transform = lambda train: LetterTransform(longest=5)


def change_versions(model, monkeypatch):
    monkeypatch.setattr(fingerprint, "_version", lambda name: "1.0" if name == "torch" else None)


def change_code(model, monkeypatch):
    monkeypatch.setattr(fingerprint, "_code", lambda cls: "other")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (change_weights, "stale: the weights of the encoder changed"),
        (change_settings, "stale: transform settings longest is 5, was null"),
        (change_versions, 'torch is "1.0", was "2'),
        (change_code, "stale: the code of the encoder changed; the code of the transform changed"),
    ],
)
def test_a_stale_cache_is_refused_and_the_message_says_what_changed(tmp_path, monkeypatch, change, match):
    table, model = make_table(tmp_path), make_parts()
    cache(model, table, tmp_path / "cache")

    change(model, monkeypatch)

    with pytest.raises(ValueError, match=match):
        cache(model, table, tmp_path / "cache")


def test_a_file_that_changes_after_caching_is_not_read_as_it_was(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    cached = cache(model, table, tmp_path / "cache")

    np.save(tmp_path / "5.npy", np.ones(DIM, np.float32))

    with pytest.raises(ValueError, match=r"features of 1 cells of 'sensor' are not in .*table.csv line 7"):
        load_batches(table, cached)


def test_an_encoder_is_asked_as_in_evaluation_and_goes_on_as_it_was(tmp_path):
    table, model = make_table(tmp_path), make_parts().train()
    model.encoders["sensor"].dropout.eval()

    cached = cache(model, table, tmp_path / "cache")

    assert [part.training for part in model.encoders["sensor"].modules()] == [True, False]
    assert model.encoders["words"].training
    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))


def test_another_dtype_is_refused(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    cache(model, table, tmp_path / "cache")

    with pytest.raises(ValueError, match='stale: dtype is "float16", was "float32"'):
        cache(model, table, tmp_path / "cache", dtype="float16")


def put_others(weight):
    weight.data = weight.data + 1


@pytest.mark.parametrize("change", [put_others, lambda weight: weight.mul_(2)])
def test_weights_that_change_after_caching_are_noticed(tmp_path, change):
    table, model = make_table(tmp_path), make_parts()
    cached = cache(model, table, tmp_path / "cache")
    list(load_batches(table, cached))

    change(model.encoders["words"].letters.weight)

    with pytest.raises(ValueError, match="has other weights by now"):
        load_batches(table, cached)


def test_a_transform_that_does_not_say_its_settings_is_refused(tmp_path):
    table, model = make_table(tmp_path), make_parts()

    class Nameless(LetterTransform):
        pass

    with pytest.raises(TypeError, match="Nameless does not remember how it was built"):
        cache(model, table, tmp_path / "cache", transforms={"words": Nameless()})
    with pytest.raises(TypeError, match=r"LetterTransform.longest is a object, whose settings cannot be told"):
        cache(model, table, tmp_path / "cache", transforms={"words": LetterTransform(object())})


def test_rows_that_are_not_in_the_cache_are_named(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    cached = cache(model, table.take(range(10)), tmp_path / "cache")

    with pytest.raises(ValueError, match=r"features of 12 cells of 'words' are not in .*table.csv lines 13, 14, 15"):
        load_batches(table, cached)


def test_batches_of_the_other_model_are_refused(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    cached = cache(model, table, tmp_path / "cache")

    with pytest.raises(ValueError, match=r"cached encoder got torch.int64 of shape .*load_batches\(table, cached\)"):
        evaluate(cached, load_batches(table, model))


@pytest.mark.plain
def test_mixup_and_shards_are_refused(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    cached = cache(model, table, tmp_path / "cache")
    write_shards(table, tmp_path / "shards", files=["sensor", "more"])

    with pytest.raises(ValueError, match="Mixup cannot mix cached features"):
        list(load_batches(table, cached, train=True, mix=Mixup()))
    with pytest.raises(DataError, match="Cached features are read by the rows of a table"):
        list(load_shards(tmp_path / "shards", cached))


# Half the space.


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_half_the_space_costs_a_known_error(tmp_path, dtype, bound):
    table, model = make_table(tmp_path), make_parts(fusion="PerceiverFusion")

    cached = cache(model, table, tmp_path / "cache", dtype=dtype)

    batch = next(iter(load_batches(table, cached)))
    assert batch.inputs["words"].values.dtype == getattr(torch, dtype)
    pairs = zip(features_of(model, table, batch_size=24), features_of(cached, table, batch_size=24), strict=True)
    for expected, found in pairs:
        for name in ("words", "sensor"):
            want, got = expected[name].zeroed(), found[name].zeroed()
            assert got.pooled.dtype == torch.float32
            assert ((got.pooled - want.pooled).abs() <= bound * want.pooled.abs()).all()
            steps = got.tokens.shape[1]
            assert ((got.tokens - want.tokens[:, :steps]).abs() <= bound * want.tokens[:, :steps].abs()).all()


def test_a_number_that_float16_cannot_hold_is_an_error(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    model.encoders["words"].letters.weight[:] = 1e5

    with pytest.raises(ValueError, match="a feature of size 1e.05 does not fit into torch.float16.*dtype='bfloat16'"):
        cache(model, table, tmp_path / "cache", dtype="float16")


# Reading.


def test_batches_do_not_depend_on_the_workers_or_on_the_number_of_shards(tmp_path, monkeypatch):
    table, model = make_table(tmp_path), make_parts(fusion="PerceiverFusion", gaps=True)
    one = cache(model, table, tmp_path / "one")
    monkeypatch.setattr(shards, "BYTES", 800)
    many = cache(model, table, tmp_path / "many", batch_size=2)
    assert len(shards.shards_of(tmp_path / "many" / "words")) > 2

    epochs = [
        list(load_batches(table, cached, train=True, batch_size=5, workers=workers))
        for cached, workers in ((one, 0), (one, 2), (many, 0))
    ]

    for batches in zip(*epochs, strict=True):
        inputs = [{name: given.zeroed() for name, given in batch.inputs.items()} for batch in batches]
        for name in inputs[0]:
            for other in inputs[1:]:
                assert torch.equal(inputs[0][name].values, other[name].values)


def test_batches_of_similar_length_know_the_lengths_of_what_is_stored(tmp_path):
    table, model = make_table(tmp_path), make_parts(fusion="PerceiverFusion")
    cached = cache(model, table, tmp_path / "cache")

    batches = load_batches(table, cached, train=True, batch_size=4, bucket_by="words")

    lengths = batches.dataset.readers["words"].lengths()
    assert lengths.tolist() == [1 + len(text) if text else 0 for text in table.column("words")]
    padded = [batch.inputs["words"].mask for batch in batches]
    plain = [batch.inputs["words"].mask for batch in load_batches(table, cached, train=True, batch_size=4)]
    assert sum(mask.numel() for mask in padded) < sum(mask.numel() for mask in plain)
    assert sum(int(mask.sum()) for mask in padded) == sum(lengths)


def test_a_copy_shares_the_encoder_and_takes_another_dtype(tmp_path):
    table, model = make_table(tmp_path), make_parts(fusion="PerceiverFusion")
    cached = cache(model, table, tmp_path / "cache").eval()
    batch = next(iter(load_batches(table, cached)))

    copied = copy.deepcopy(cached)

    assert copied.encoders["words"].stands_for is model.encoders["words"]
    expected = cached(batch).predictions["kind"]
    assert torch.equal(copied(batch).predictions["kind"], expected)
    assert cached.double()(batch).predictions["kind"].dtype == torch.float64


@pytest.mark.plain
def test_a_model_on_the_cache_compiles_whole(tmp_path):
    table, model = make_table(tmp_path), make_parts(fusion="PerceiverFusion")
    cached = cache(model, table, tmp_path / "cache").eval()
    batch = next(iter(load_batches(table, cached)))

    compiled = torch.compile(cached, fullgraph=True, backend="eager")

    assert torch.equal(compiled(batch).predictions["kind"], cached(batch).predictions["kind"])


def test_a_reader_that_is_sent_maps_the_same_files_again(tmp_path):
    table, model = make_table(tmp_path), make_parts(fusion="PerceiverFusion", gaps=True)
    cached = cache(model, table, tmp_path / "cache")
    features = load_batches(table, cached).dataset.readers["words"]._features

    sent = pickle.loads(pickle.dumps(features))

    rows = torch.arange(len(table))
    expected, found = (part.gather(rows, tokens=True) for part in (features, sent))
    assert torch.equal(expected.values, found.values)
    assert torch.equal(expected.mask, found.mask)


def test_a_batch_without_the_modality_and_a_table_without_it(tmp_path):
    table, model = make_table(tmp_path), make_parts(fusion="PerceiverFusion")
    lacking = table.take([row for row, cell in enumerate(table.column("words")) if cell is None])

    cached = cache(model, lacking, tmp_path / "cache")

    assert not next(iter(load_batches(lacking, cached))).inputs["words"].present.any()
    assert len(predict(cached, load_batches(lacking, cached))) == len(lacking)
    with pytest.raises(DataError, match="no row has the modality 'words'"):
        load_batches(lacking, cached, train=True)


def test_reading_holds_no_more_than_a_batch(tmp_path):
    rows, width = 4000, 512
    folder = tmp_path / "words"
    folder.mkdir()
    samples = [shards.Stored(row.to_bytes(16, "big"), torch.full((8, width), float(row)), True) for row in range(rows)]
    shards.write_shard(folder, shards.as_tensors(samples))  # 65 MB
    del samples
    from mmfuse.training.caching.store import FeatureStore

    def own_memory():
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

    features = FeatureStore(folder, width, torch.float32).of_rows(torch.arange(rows))
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    features.gather(order[:32], tokens=True)
    before = own_memory()
    for some in order.split(32):
        given = features.gather(some, tokens=True)
        assert given.values.shape == (32, 8, width)
    assert own_memory() - before < 8000  # KB


def test_what_is_there_already_and_what_is_not_cached_is_told(tmp_path, capsys):
    table, model = make_table(tmp_path), make_parts()
    model.encoders["more"] = FeatureEncoder(DIM)
    cache(model, table, tmp_path / "cache", modalities=["words"])

    cache_features(model, table, tmp_path / "cache", modalities=["words"])

    said = capsys.readouterr().err
    assert f"words: the features of all cells are in {tmp_path}/cache/words already." in said
    assert "sensor: not cached, not asked for." in said
    assert "more: not cached, it has no parameters." in said


def test_what_it_takes_and_saves_is_told_beforehand(tmp_path, capsys):
    table, model = make_table(tmp_path), make_parts(fusion="PerceiverFusion")

    cache_features(model, table, tmp_path / "cache", dtype="float16", batch_size=2)

    said = capsys.readouterr().err
    assert "sensor: 24 bytes a sample (tokens and pooled vector, torch.float16), 456 bytes for 19 of them" in said
    assert "Encoding takes" in said
    assert re.search(
        r"in all, which every later epoch saves: .* more than [\d.e+]+ .?B a second, reading is faster", said
    )
    assert "more: not cached, 6 of its parameters learn." in said
    assert "words: rounding changed" in said
    (size,) = re.findall(r"words: .*float16\), ([\d.]+) KB for 21 of them", said)
    (path,) = shards.shards_of(tmp_path / "cache" / "words")
    true = shards.read_shard(path)["values"].nbytes
    assert abs(1000 * float(size) - true) < 0.1 * true  # told from the longest two, which are no measure of the others


def test_the_model_is_left_as_it_was(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    model.train()
    model.encoders["words"].eval()
    state = torch.get_rng_state()

    cache(model, table, tmp_path / "cache")

    assert model.encoders["sensor"].training
    assert not model.encoders["words"].training
    assert torch.equal(torch.get_rng_state(), state)


def test_verifying_a_folder_without_features_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"found no features in .*nowhere. .* Check the path"):
        verify_features(tmp_path / "nowhere")
