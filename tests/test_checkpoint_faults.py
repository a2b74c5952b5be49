"""What may happen to a checkpoint: killed writers, full and broken disks, flipped bits, planted pickles."""

import errno
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hostile import Canary, small_disk
from test_checkpoints import SETTINGS, Run, require_equal, saved
from tiny_data import make_model

import mmfuse
import mmfuse._files
from mmfuse._files import CorruptCheckpointError, UnsafeFileError
from mmfuse.training.checkpoints import writing
from mmfuse.training.checkpoints.checkpoint import Checkpoints
from mmfuse.training.checkpoints.places import Places


def write_until_killed(folder):
    """Save after every step, from the newest checkpoint on; never returns."""
    run, checkpoints = Run(width=2000), Checkpoints(folder)
    step = (checkpoints.load(run.parts, SETTINGS) or {"step": 0})["step"]
    while True:
        step += 1
        checkpoints.save(step, run.step().parts, {"step": step, "settings": SETTINGS})


@pytest.mark.plain  # it is about time
def test_a_writer_that_is_killed_at_any_time_leaves_a_whole_checkpoint_and_never_goes_back(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    place, choose, newest, half_written = tmp_path / "checkpoints", random.Random(0), 0, 0
    for _ in range(25):
        child = os.fork()
        if not child:
            try:
                write_until_killed(tmp_path)
            finally:
                os._exit(1)
        while max(Places(place, "step").all(), default=(0, 0))[0] <= newest:  # it has begun
            time.sleep(0.001)
        time.sleep(choose.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        half_written += any(place.glob(".*"))

        found = Checkpoints(tmp_path).load(Run(width=2000).parts, SETTINGS)  # a warning would be an error

        assert len([*place.glob(".*")]) <= 2  # the next one takes away what is half written or half removed
        assert found["step"] > newest
        newest = found["step"]
    assert half_written > 3  # it was interrupted while it wrote
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(newest, {}, {})
    checkpoints.wait()
    assert not [*place.glob(".*")]


def files_of(folder):
    return [*sorted(folder.iterdir()), *folder.parent.glob("frozen-*")]


def flip(path, offset, bit):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


FILES = ["MANIFEST", "index", "model", "optimizer", "random", "state", "frozen"]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_in_every_file(tmp_path, name):
    run, checkpoints = saved(tmp_path, steps=(1,))
    (path,) = (p for p in files_of(tmp_path / "checkpoints" / "step-00000001") if p.name.startswith(name))
    whole = path.read_bytes()
    choose = random.Random(name)
    for _ in range(20):
        flip(path, choose.randrange(len(whole)), choose.randrange(8))
        with pytest.raises(CorruptCheckpointError, match=rf"{name}\S* in .* (has sha256|cannot be read)"):
            checkpoints.load(run.parts, SETTINGS)
        path.write_bytes(whole)
    assert checkpoints.load(run.parts, SETTINGS)


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def swap(path):
    other = next(p for p in files_of(path.parent) if p.suffix == path.suffix and p != path)
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize("spoil", [truncate, empty, zeros, Path.unlink, swap])
def test_a_file_that_was_cut_emptied_lost_or_exchanged_is_named_and_the_one_before_is_used(tmp_path, spoil):
    for number, name in enumerate(FILES[:-1]):
        folder = tmp_path / str(number)
        run, _ = saved(folder, steps=(1, 2))
        (path,) = (p for p in files_of(folder / "checkpoints" / "step-00000002") if p.name.startswith(name))
        spoil(path)

        checkpoints = Checkpoints(folder)
        with pytest.warns(UserWarning, match=r"A checkpoint is broken: .* in .*00000002.* Using step-00000001 instead"):
            progress = checkpoints.load(run.parts, SETTINGS)

        assert progress["step"] == 1
        with pytest.raises(CorruptCheckpointError, match="step-00000002"):
            checkpoints.load(run.parts, SETTINGS, step=2)


@pytest.mark.plain
def test_a_broken_checkpoint_is_told_by_file_with_what_was_found_and_expected(tmp_path):
    run, checkpoints = saved(tmp_path, steps=(1,))
    path = tmp_path / "checkpoints" / "step-00000001" / "optimizer.safetensors"
    flip(path, path.stat().st_size - 1, 3)

    message = r"No checkpoint in .* is whole: optimizer.safetensors in .*step-00000001 has sha256 \w{16}, expected \w"
    with pytest.raises(CorruptCheckpointError, match=message):
        checkpoints.load(run.parts, SETTINGS)
    assert checkpoints.load(run.parts, SETTINGS, verify=False)  # only sizes are looked at
    flip(path, 100, 3)
    with pytest.raises(CorruptCheckpointError, match="cannot give a tensor of optimizer.safetensors"):
        checkpoints.load(run.parts, SETTINGS, verify=False)
    truncate(path)
    with pytest.raises(CorruptCheckpointError, match=r"optimizer.safetensors in .* has \d+ bytes, expected \d+"):
        checkpoints.load(run.parts, SETTINGS, verify=False)


def test_a_broken_checkpoint_does_not_stand_in_the_way_of_those_to_come(tmp_path):
    run, _ = saved(tmp_path, steps=(1, 2, 3))
    flip(tmp_path / "checkpoints" / "step-00000003" / "model.safetensors", 300, 0)
    checkpoints = Checkpoints(tmp_path, keep=2)
    with pytest.warns(UserWarning, match="Using step-00000002 instead"):
        assert checkpoints.load(run.parts, SETTINGS)["step"] == 2

    for step in (3, 4):
        checkpoints.save(step, run.step().parts, {"step": step, "settings": SETTINGS})
        checkpoints.wait()
        assert checkpoints.load(run.parts, SETTINGS)["step"] == step

    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert names == ["step-00000003.1", "step-00000004"]


@pytest.mark.plain
@pytest.mark.parametrize("write", ["pickle", "torch"])
@pytest.mark.parametrize("name", FILES)
def test_a_pickle_under_another_name_is_never_opened(tmp_path, name, write):
    run, checkpoints = saved(tmp_path, steps=(1, 2))
    (path,) = (p for p in files_of(tmp_path / "checkpoints" / "step-00000002") if p.name.startswith(name))
    canary = Canary(tmp_path / "canary")
    if write == "torch":
        torch.save(canary, path)
    else:
        path.write_bytes(pickle.dumps(canary))

    with pytest.raises(UnsafeFileError, match="is a pickle file .* mmfuse never unpickles, because that runs code"):
        checkpoints.load(run.parts, SETTINGS)

    assert not (tmp_path / "canary").exists()


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def broken(*_, **__):
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.plain
def test_a_disk_that_is_too_full_is_told_before_anything_is_written(tmp_path, monkeypatch):
    run, checkpoints = saved(tmp_path, steps=(1,))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))

    checkpoints.save(2, run.parts, {})
    with pytest.raises(
        OSError,
        match=r"No space left in .*: the checkpoint of step 2 needs .* MiB, has 0.0 MiB. The c"
        r"heckpoint of step 1 is whole. Make room there",
    ) as caught:
        checkpoints.wait()

    assert caught.value.errno == errno.ENOSPC
    checkpoints.wait()  # it is said once
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("[!f]*")) == ["step-00000001"]
    assert Checkpoints(tmp_path).load(run.parts)["step"] == 1


@pytest.mark.plain
@pytest.mark.parametrize(
    ("where", "fault", "message"),
    [
        ("write_tensors", full, "No space left in .* needs .* MiB, has .* MiB. The checkpoint of step 1 is whole"),
        ("write_tensors", broken, "Input/output error in .*: the checkpoint of step 2 could not be written"),
        ("flush", broken, "Input/output error in .* The checkpoint of step 1 is whole. Mend the disk or its permis"),
        ("write_manifest", full, "No space left in .* needs .* MiB, has .* MiB. The checkpoint of step 1 is whole"),
    ],
)
def test_what_the_disk_does_not_take_leaves_the_checkpoints_before(tmp_path, monkeypatch, where, fault, message):
    run, checkpoints = saved(tmp_path, steps=(1,))
    expected = Run()
    expected.model.load_state_dict(run.model.state_dict())
    with monkeypatch.context() as patch:
        patch.setattr(writing, where, fault)
        checkpoints.save(2, run.step().parts, {})
        with pytest.raises(OSError, match=message):
            checkpoints.save(3, run.parts, {})

    assert Checkpoints(tmp_path).load(run.parts)["step"] == 1
    assert torch.equal(run.model[2].weight, expected.model[2].weight)
    checkpoints.save(3, run.parts, {"step": 3})  # there is room again
    checkpoints.wait()
    assert checkpoints.load(run.parts)["step"] == 3
    assert not [*(tmp_path / "checkpoints").glob(".*")]


@pytest.mark.plain
def test_a_disk_that_gives_back_something_else_is_found_before_the_checkpoint_counts(tmp_path, monkeypatch):
    run, checkpoints = saved(tmp_path, steps=(1,))

    def lying(path, tensors):
        entry = mmfuse._files.write_tensors(path, tensors)
        flip(path, entry["size"] - 1, 0)
        return entry

    monkeypatch.setattr(writing, "write_tensors", lying)
    checkpoints.save(2, run.parts, {})
    with pytest.raises(CorruptCheckpointError, match="the disk gave back something else than was written"):
        checkpoints.wait()

    assert checkpoints.steps == [1]


@pytest.fixture(name="small_disk")
def a_small_disk(tmp_path):
    with small_disk(tmp_path / "small", "2m") as place:
        yield place


@pytest.mark.plain
def test_a_real_disk_that_is_full_keeps_what_it_has(small_disk):
    run, checkpoints = Run(width=10_000), Checkpoints(small_disk)
    checkpoints.save(1, run.step().parts, {"step": 1})  # 0.9 MB
    checkpoints.wait()
    (small_disk / "other").write_bytes(bytes(600_000))
    checkpoints.save(2, run.step().parts, {"step": 2})

    with pytest.raises(OSError, match=r"No space left in .*: the checkpoint of step 2 needs 0.\d MiB, has 0.\d MiB"):
        checkpoints.wait()

    again = Run(seed=1, width=10_000)
    assert Checkpoints(small_disk).load(again.parts)["step"] == 1
    (small_disk / "other").unlink()
    checkpoints.save(3, run.parts, {"step": 3})
    checkpoints.wait()
    checkpoints.load(again.parts)
    require_equal(again, run)


@pytest.mark.plain
def test_a_real_disk_that_fills_up_while_it_is_written_to_keeps_what_it_has(small_disk, monkeypatch):
    run, checkpoints = Run(width=10_000), Checkpoints(small_disk)
    checkpoints.save(1, run.step().parts, {"step": 1})
    checkpoints.wait()
    (small_disk / "other").write_bytes(bytes(600_000))
    monkeypatch.setattr(writing, "_free", lambda folder: 10**9)
    checkpoints.save(2, run.step().parts, {"step": 2})

    with pytest.raises(OSError, match=r"No space left in .*: the checkpoint of step 2 needs"):
        checkpoints.wait()

    assert Checkpoints(small_disk).load(run.parts)["step"] == 1
    assert sorted(p.name for p in (small_disk / "checkpoints").glob("[!f]*")) == ["step-00000001"]


@pytest.mark.plain
def test_an_older_checkpoint_that_cannot_be_removed_is_told_and_the_run_goes_on(tmp_path, monkeypatch):
    run, checkpoints = saved(tmp_path, steps=(1,))
    checkpoints = Checkpoints(tmp_path, keep=1)

    def denied(self, target):
        raise OSError(errno.EPERM, "Operation not permitted", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", denied)
        checkpoints.save(2, run.parts, {"step": 2})
        with pytest.warns(UserWarning, match="step-00000001 is older than the 1 newest .*, and could not be rem"):
            checkpoints.wait()
    assert checkpoints.steps == [1, 2]
    checkpoints.save(3, run.parts, {"step": 3})
    checkpoints.wait()
    assert checkpoints.steps == [3]


def test_folders_that_are_links_are_written_through_and_a_link_to_a_checkpoint_goes_alone(tmp_path):
    for name in ("disk", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "disk")
    run, checkpoints = Run(), Checkpoints(tmp_path / "run", keep=1)
    checkpoints.save(1, run.parts, {})
    checkpoints.wait()
    (tmp_path / "disk" / "step-00000001").rename(tmp_path / "moved")
    (tmp_path / "disk" / "step-00000001").symlink_to(tmp_path / "moved")
    checkpoints.save(2, run.parts, {})
    checkpoints.wait()

    assert sorted(path.name for path in (tmp_path / "disk").glob("[!f]*")) == ["step-00000002"]
    assert (tmp_path / "moved" / "state.json").exists()


@pytest.mark.plain
def test_a_folder_that_may_only_be_read_is_told(small_disk):
    run, checkpoints = Run(), Checkpoints(small_disk)
    checkpoints.save(1, run.parts, {"step": 1})
    checkpoints.wait()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    checkpoints.save(2, run.parts, {"step": 2})
    with pytest.raises(OSError, match=r"Read-only file system in .*: the checkpoint of step 2 could not be written"):
        checkpoints.wait()

    assert Checkpoints(small_disk).load(run.parts)["step"] == 1


FORBIDDEN = (
    "exec",
    "compile",
    "import",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "socket.connect",
    "pickle.find_class",
)


@pytest.mark.plain
@pytest.mark.parametrize("what", ["checkpoint", "model", "control"])
def test_nothing_is_run_imported_or_connected_to_while_a_folder_is_read(tmp_path, what):
    run, checkpoints = saved(tmp_path, steps=(1,))
    mmfuse.save(make_model(), tmp_path / "model")
    read = {
        "checkpoint": lambda: checkpoints.load(run.parts, SETTINGS),
        "model": lambda: mmfuse.load(tmp_path / "model"),
        "control": lambda: exec("1"),
    }[what]
    read()  # what reading needs is imported now

    child = os.fork()  # a hook can not be taken off again
    if not child:
        seen = []
        try:
            sys.addaudithook(lambda event, args: seen.append(event) if event in FORBIDDEN else None)
            read()
            (tmp_path / "seen").write_text(" ".join(seen))
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert (tmp_path / "seen").read_text() == ("compile exec" if what == "control" else "")
