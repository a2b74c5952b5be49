"""What may go wrong while features are cached: rows, workers, processes, disks and files."""

import os
import re
import signal
import subprocess
import time
import warnings

import numpy as np
import pytest
import torch
from cached_parts import (
    DIM,
    LetterTransform,
    Trap,
    cache,
    calls,
    make_parts,
    make_table,
    one_thread,  # noqa: F401  a fixture for all tests
)
from hostile import small_disk
from processes import outcomes, run

from mmfuse._files import hash_file
from mmfuse.data import DataError, load_batches
from mmfuse.distributed import rank
from mmfuse.evaluation import predict
from mmfuse.training import fit
from mmfuse.training.caching import shards, store, verify, verify_features, whole

# What cannot be read, and what is not finite.


def broken_table(folder):
    table = make_table(folder)
    (folder / "0.npy").write_bytes(b"nothing")
    cells = ["gone.npy" if row == 1 else cell for row, cell in enumerate(table.column("sensor"))]
    return table.with_column("sensor", cells)


def test_a_cell_that_cannot_be_read_stops_with_its_row(tmp_path):
    with pytest.raises(DataError, match=r"table.csv line 2, column 'sensor': file 0.npy"):
        cache(make_parts(), broken_table(tmp_path), tmp_path / "cache")


@pytest.mark.filterwarnings("ignore:.*could not be read:UserWarning")
@pytest.mark.parametrize("on_error", ["absent", "skip"])
def test_what_cannot_be_read_is_counted_as_without_the_cache(tmp_path, on_error):
    table, model = broken_table(tmp_path), make_parts()
    with pytest.warns(UserWarning, match="2 cells of 'sensor' could not be read and have no features: .*line 3"):
        cached = cache(model, table, tmp_path / "cache", on_error=on_error, max_errors=0.2)

    found = []
    for m in (model, cached):
        batches = load_batches(table, m, on_error=on_error, max_errors=1.0)
        found.append((predict(m, batches), batches.dataset.report.dropped, str(batches.dataset.report)))

    assert found[0] == found[1]
    with pytest.raises(DataError, match=r"line 2, column 'sensor': file 0.npy"):
        list(load_batches(table, cached))


@pytest.mark.plain
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "has ended: .*"),
        (lambda: time.sleep(1000), "has given nothing for 1 s."),
    ],
    ids=["dies", "hangs"],
)
def test_a_worker_that_dies_or_hangs_names_the_row_and_what_was_encoded_is_kept(tmp_path, act, said):
    table, model = make_table(tmp_path), make_parts()
    texts = list(dict.fromkeys(text for text in table.column("words") if text))
    longest = sorted(texts, key=len, reverse=True)  # they are read first
    trap, healthy = {"words": Trap(longest[8], act)}, {"words": Trap("", None)}
    options = {"modalities": ["words"], "batch_size": 4, "workers": 1, "timeout": 1}

    with pytest.raises(DataError, match=rf"{said} It was reading .*table.csv line \d+ \(its batch: .*workers=0"):
        cache(model, table, tmp_path / "cache", transforms=trap, **options)
    first = calls(model)["words"]
    cached = cache(model, table, tmp_path / "cache", transforms=healthy, **options)

    assert first <= 8  # what a worker had read, and not handed over, is lost with it
    assert calls(model)["words"] <= len(texts) + 4  # torch's alarm may come before the last batch is kept
    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))


def test_what_could_not_be_read_is_tried_again(tmp_path):
    table, model = broken_table(tmp_path), make_parts()
    with pytest.warns(UserWarning, match="could not be read"):
        cache(model, table, tmp_path / "cache", on_error="absent")
    np.save(tmp_path / "0.npy", np.ones(DIM, np.float32))
    np.save(tmp_path / "gone.npy", np.zeros(DIM, np.float32))

    cached = cache(model, table, tmp_path / "cache")

    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))


def test_what_is_cut_off_is_counted_as_without_the_cache(tmp_path):
    table, model, cut = make_table(tmp_path), make_parts(), {"words": LetterTransform(5)}
    cached = cache(model, table, tmp_path / "cache", transforms=cut)

    reports = []
    for m, transforms in ((model, cut), (cached, None)):
        batches = load_batches(table, m, transforms=transforms)
        list(batches)
        reports.append(batches.dataset.report.truncated)

    assert reports[0] == reports[1]
    assert reports[0]["words"].samples


def test_features_that_are_not_finite_are_an_error(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    model.encoders["words"].letters.weight[ord("h") % 64] = torch.nan

    with pytest.raises(ValueError, match=r"table.csv line 3, column 'words': the encoder gives features that are NaN"):
        cache(model, table.take([1]), tmp_path / "cache")


# Interrupted, shared, full, damaged.


def test_a_file_that_is_written_to_while_features_are_made_is_named(tmp_path):
    table, model = make_table(tmp_path), make_parts()

    def write(module, given):
        np.save(tmp_path / "4.npy", np.ones(DIM, np.float32))  # a key of its old content is taken by now

    handle = model.encoders["sensor"].register_forward_pre_hook(write)
    with pytest.raises(DataError, match=r"table.csv line 6, column 'sensor': file 4.npy was written to while"):
        cache(model, table, tmp_path / "cache", batch_size=2)
    handle.remove()
    cached = cache(model, table, tmp_path / "cache")

    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))


class Killed:
    """Kills its process at a certain writing of a file, before, in the middle of or after it."""

    def __init__(self, at, when):
        self.at, self.when, self.count, self.write = at, when, 0, whole.write_tensors

    def __call__(self, path, tensors):
        self.count += 1
        if self.count == self.at and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        made = self.write(path, tensors)
        if self.count == self.at:
            if self.when == "half":
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return made


@pytest.mark.parametrize(("at", "when"), [(1, "half"), (3, "before"), (3, "half"), (5, "after")])
def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path, monkeypatch, at, when):
    table, model = make_table(tmp_path), make_parts()
    monkeypatch.setattr(shards, "BYTES", 1)  # every sample is a shard

    def work():
        whole.write_tensors = Killed(at, when)
        cache(model, table, tmp_path / "cache", batch_size=2)

    (ended,) = outcomes(1, work, meet=False)
    assert ended.code == -signal.SIGKILL
    stored = len(shards.shards_of(tmp_path / "cache" / "words"))
    cached = cache(model, table, tmp_path / "cache", batch_size=2)

    texts = {text for text in table.column("words") if text}
    assert calls(model)["words"] == len(texts) - stored
    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))
    assert not list((tmp_path / "cache").rglob(".*"))
    verify_features(tmp_path / "cache")


def test_an_error_in_the_middle_keeps_what_was_encoded(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    cells = table.column("words")
    cells[8] = "no!"

    with pytest.raises(DataError, match="The text shouts"):
        cache(model, table.with_column("words", cells), tmp_path / "cache", batch_size=1)
    before = calls(model)["words"]
    cache(model, table, tmp_path / "cache")

    assert before > 0
    assert calls(model)["words"] == len({text for text in table.column("words") if text})


def test_processes_share_the_work(tmp_path):
    table, model = make_table(tmp_path), make_parts()

    def work():
        mine = make_parts()
        cached = cache(mine, table, tmp_path / "cache", batch_size=3)
        counts = calls(mine)
        fit(cached, load_batches(table, cached, train=True, batch_size=4), epochs=2, progress=False)
        return rank(), counts, predict(cached, load_batches(table, cached, batch_size=12))

    found = run(2, work)

    assert found[0][2] == found[1][2]
    assert len(found[0][2]) == len(table)
    counts = {name: [count[name] for _, count, _ in found] for name in ("words", "sensor")}
    assert all(min(count) > 0.3 * sum(count) for count in counts.values())
    cached = cache(model, table, tmp_path / "cache")
    assert calls(model) == {"words": 0, "sensor": 0}
    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))
    assert len(shards.shards_of(tmp_path / "cache" / "sensor")) == 1


def test_an_error_of_one_process_ends_all(tmp_path):
    table = broken_table(tmp_path)

    ended = outcomes(2, lambda: cache(make_parts(), table, tmp_path / "cache", batch_size=3))

    assert all(each.code == 1 and not each.timed_out for each in ended)
    assert all("column 'sensor'" in each.log for each in ended)


def wait_for(file):
    for _ in range(6000):
        if file.exists():
            return
        time.sleep(0.01)
    raise TimeoutError(file.name)


def fill_slowly(table, folder, end):
    """Begin to fill the cache, and go on when another one waits for that."""
    model = make_parts()

    def meet(module, given):
        (folder / "begun").touch()
        wait_for(folder / "waits")
        if end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)

    model.encoders["words"].register_forward_pre_hook(meet)
    cache(model, table, folder / "cache")


def fill_after(table, folder):
    """Fill the cache that another one fills already; what was warned of, and what was encoded."""
    model, said = make_parts(), []
    wait_for(folder / "begun")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *about: (said.append(str(about[0])), (folder / "waits").touch())
        cache(model, table, folder / "cache")
    return said, calls(model)


@pytest.mark.parametrize("end", ["done", "killed"])
def test_a_run_that_finds_another_one_at_work_waits_until_it_is_done_or_gone(tmp_path, end):
    table = make_table(tmp_path)

    def work():
        number = rank()
        for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):  # runs of their own
            del os.environ[name]
        return fill_after(table, tmp_path) if number else fill_slowly(table, tmp_path, end)

    ended = outcomes(2, work, meet=False)

    assert [each.code for each in ended] == [0 if end == "done" else -signal.SIGKILL, 0], ended[1].log
    (said,), counts = ended[1].result
    assert re.search("Another run is filling .*cache with features. This one waits until it is done, or gone", said)
    assert counts == ({"words": 0, "sensor": 0} if end == "done" else {"words": 21, "sensor": 19})
    cached = cache(model := make_parts(), table, tmp_path / "cache")
    assert calls(model) == {"words": 0, "sensor": 0}
    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))


def test_a_full_disk_says_so_and_leaves_whole_shards(tmp_path, monkeypatch):
    table, model = make_table(tmp_path), make_parts()
    monkeypatch.setattr(shards, "BYTES", 1)
    write = whole.write_tensors

    def fail(path, tensors):
        if len(list(path.parent.glob("shard-*"))) == 3:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        return write(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(whole, "write_tensors", fail)
        with pytest.raises(
            OSError, match=r"do not fit on the disk: .* bytes more are needed in .*, .* GB are free.*keep="
        ):
            cache(model, table, tmp_path / "cache", batch_size=1)

    assert not list((tmp_path / "cache").rglob(".*"))
    verify_features(tmp_path / "cache")
    cached = cache(model, table, tmp_path / "cache")
    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))


@pytest.fixture(name="small_disk")
def a_small_disk(tmp_path):
    with small_disk(tmp_path / "small", "256k") as place:
        yield place


def test_a_real_disk_that_is_full_keeps_whole_shards(tmp_path, small_disk, monkeypatch):
    table, model = make_table(tmp_path), make_parts()
    monkeypatch.setattr(shards, "BYTES", 1)
    (small_disk / "other").write_bytes(bytes(220_000))  # seven pages are left

    with pytest.raises(OSError, match="do not fit on the disk"):
        cache(model, table, small_disk / "cache", modalities=["words"], batch_size=1)
    stored = len(shards.shards_of(small_disk / "cache" / "words"))
    first = calls(model)["words"]
    verify_features(small_disk / "cache")
    (small_disk / "other").unlink()
    cached = cache(model, table, small_disk / "cache", modalities=["words"])

    assert 0 < stored < first
    assert calls(model)["words"] == first + len({text for text in table.column("words") if text}) - stored
    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))


def test_a_complete_folder_on_a_disk_that_may_only_be_read_serves(tmp_path, small_disk):
    table, model = make_table(tmp_path), make_parts()
    for row in range(24):
        os.utime(tmp_path / f"{row}.npy", (0, 0))
    cache(model, table, small_disk / "cache")
    for note in [*(small_disk / "cache").rglob("files-*"), *(small_disk / "cache").rglob("whole.json")]:
        note.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    cached = cache(model, table, small_disk / "cache")

    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))
    np.save(tmp_path / "0.npy", np.ones(DIM, np.float32))
    with pytest.raises(OSError, match="Read-only file system"):
        cache(model, table, small_disk / "cache")


def test_a_disk_that_is_too_small_is_told_after_the_first_batch(tmp_path, monkeypatch):
    table, model = make_table(tmp_path), make_parts()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 100})())

    with pytest.raises(OSError, match="504 bytes more are needed in .*, 100 bytes are free"):
        cache(model, table, tmp_path / "cache", modalities=["words"], batch_size=2)
    assert calls(model)["words"] == 2


def test_a_damaged_shard_is_named(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    cached = cache(model, table, tmp_path / "cache")
    (path,) = shards.shards_of(tmp_path / "cache" / "words")
    content = bytearray(path.read_bytes())

    content[-300] ^= 1
    path.write_bytes(content)
    damaged = f"1 shards of features are not as they were written: .*{path.name}"
    with pytest.raises(ValueError, match=damaged):
        verify_features(tmp_path / "cache")
    with pytest.raises(ValueError, match=damaged):
        cache(model, table, tmp_path / "cache")
    path.write_bytes(content[:-10])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read: .*Delete this file"):
        load_batches(table, cached)
    path.unlink()
    again = cache(model, table, tmp_path / "cache")
    assert predict(again, load_batches(table, again)) == predict(model, load_batches(table, model))


def test_shards_are_looked_at_again_only_if_they_were_touched(tmp_path, monkeypatch):
    table, model, seen = make_table(tmp_path), make_parts(), []
    cache(model, table, tmp_path / "cache")
    monkeypatch.setattr(verify, "hash_file", lambda path: seen.append(path) or hash_file(path))

    cache(model, table, tmp_path / "cache")
    first = list(seen)
    (path,) = shards.shards_of(tmp_path / "cache" / "words")
    os.utime(path)
    cache(model, table, tmp_path / "cache")
    cache(model, table, tmp_path / "cache")

    assert first == []
    assert seen == [path]


@pytest.mark.parametrize("note", ["files-0.safetensors", "words/whole.json", "sensor/whole.json"])
def test_a_damaged_note_costs_time_alone(tmp_path, note):
    table, model = make_table(tmp_path), make_parts()
    for row in range(24):
        os.utime(tmp_path / f"{row}.npy", (0, 0))
    cache(model, table, tmp_path / "cache")
    (tmp_path / "cache" / note).write_bytes(b"{nothing")
    first = calls(model)

    cached = cache(model, table, tmp_path / "cache")

    assert calls(model) == first
    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))


def test_shards_that_are_joined_while_they_are_read_are_found(tmp_path, monkeypatch):
    table, model = make_table(tmp_path), make_parts()
    cached, place = cache(model, table, tmp_path / "cache"), tmp_path / "cache" / "words"
    (path,) = shards.shards_of(place)
    tensors = shards.read_shard(path)
    halves = [[*range(10)], [*range(10, len(tensors["lengths"]))]]
    for half in halves:  # one vector a sample
        shards.write_shard(place, {name: part[half] for name, part in tensors.items()})
    path.unlink()
    read = store.read_shard

    def join_first(*args):
        monkeypatch.setattr(store, "read_shard", read)
        shards.join_shards(place)
        return read(*args)

    monkeypatch.setattr(store, "read_shard", join_first)
    assert predict(cached, load_batches(table, cached)) == predict(model, load_batches(table, model))
    assert len(shards.shards_of(place)) == 1


@pytest.mark.parametrize("wrong", ["lengths", "values", "dtype"])
def test_tensors_that_do_not_belong_together_are_refused(tmp_path, wrong):
    sample = shards.Stored(b"0" * 16, torch.zeros(3, DIM), True)
    tensors = shards.as_tensors([sample])
    tensors |= {
        "lengths": {"lengths": torch.tensor([5], dtype=torch.int32)},
        "values": {"values": torch.zeros(3, DIM + 1)},
        "dtype": {"values": torch.zeros(3, DIM, dtype=torch.float64)},
    }[wrong]
    path = shards.write_shard(tmp_path, tensors)

    with pytest.raises(ValueError, match=r"cannot be read: its (tensors|values)"):
        shards.read_shard(path, DIM, torch.float32)


def test_a_cache_of_another_form_is_refused(tmp_path):
    table, model = make_table(tmp_path), make_parts()
    cache(model, table, tmp_path / "cache")
    about = tmp_path / "cache" / "words" / "about.json"
    about.write_text(about.read_text().replace('"version": 1', '"version": 9'))

    with pytest.raises(ValueError, match="about.json has version 9. Expected 1"):
        cache(model, table, tmp_path / "cache")
