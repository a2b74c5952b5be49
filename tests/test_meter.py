"""What the meter counts, shows, and takes up again."""

import builtins
import math
import re

import torch
from torch.utils.data import Dataset

from mmfuse import Batch, Input
from mmfuse.training import meter as module
from mmfuse.training.meter import Means, Meter, memory_mb


def batch_of(size):
    return Batch({"left": Input(torch.zeros(size, 2), torch.ones(size, dtype=torch.bool))})


class Batches(list):
    """Batches that know how many samples they come from, as a Loader's do."""

    class Data(Dataset):
        def __len__(self):
            return 10

    dataset = Data()


def draw_always(bar):
    bar.mininterval, bar.miniters, bar.dynamic_miniters = 0, 0, False


def run(meter, losses):
    """One step for each batch, with these losses of the task "sort"."""
    for loss, _ in zip(losses, meter, strict=False):
        meter.add({"sort": loss, "size": 10.0 * loss})


def test_the_losses_of_an_epoch_are_means_over_its_steps():
    meter = Meter([batch_of(4), batch_of(4), batch_of(2)], "", show=False)

    run(meter, [1.0, 2.0, 6.0])
    numbers = meter.close()

    assert numbers["train/sort/loss"] == 3.0
    assert numbers["train/size/loss"] == 30.0
    assert numbers["train/loss"] == 33.0
    assert numbers["samples_per_second"] > 0 and 0 <= numbers["wait_share"] <= 1 and numbers["memory_mb"] > 1


def test_a_task_that_some_steps_lack_is_a_mean_over_the_others():
    means = Means()

    means.add({"sort": 1.0})
    means.add({"sort": 3.0, "size": 5.0})

    assert means.read() == {"sort": 2.0, "size": 5.0}


def test_what_is_recent_is_what_came_since_the_last_reading():
    meter = Meter([batch_of(4)] * 4, "", show=False)

    run(meter, [1.0, 3.0])
    first = meter.recent()
    run(meter, [5.0])
    second = meter.recent()

    assert (first["step/sort/loss"], first["step/loss"]) == (2.0, 22.0)
    assert (second["step/sort/loss"], second["step/loss"]) == (5.0, 55.0)
    assert set(second) == {f"step/{name}" for name in ("loss", "sort/loss", "size/loss")} | {
        f"step/{name}" for name in ("samples_per_second", "wait_share", "memory_mb")
    }


def test_a_step_that_was_skipped_shows_in_the_log_and_not_in_the_mean_of_the_epoch():
    meter = Meter([], "", show=False)

    meter.add({"sort": 2.0})
    meter.add({"sort": math.nan}, skipped=True)

    assert math.isnan(meter.recent()["step/sort/loss"])
    other = Meter([], "", show=False)
    other.load_state_dict(meter.state_dict())
    numbers = other.close()
    assert (numbers["train/sort/loss"], numbers["skipped_steps"]) == (2.0, 1)


def test_an_epoch_that_is_taken_up_in_its_middle_gives_the_same_means_bit_for_bit():
    losses = torch.rand(20, generator=torch.Generator().manual_seed(0)).tolist()
    whole, first, second = (Meter([batch_of(4)] * 20, "", show=False) for _ in range(3))

    run(whole, losses[:7])
    whole.recent()
    run(whole, losses[7:])
    run(first, losses[:7])
    first.recent()
    run(first, losses[7:11])
    second.load_state_dict(first.state_dict())
    run(second, losses[11:])

    def steady(numbers):
        return {name: value for name, value in numbers.items() if name.endswith("loss")}

    assert steady(second.recent()) == steady(whole.recent())
    assert steady(second.close()) == steady(whole.close())
    assert second.samples == 80


def test_the_state_of_a_meter_is_tensors_and_plain_numbers():
    meter = Meter([batch_of(4)], "", show=False)
    empty = meter.state_dict()

    run(meter, [0.5])
    state = meter.state_dict()

    assert torch.equal(state["epoch"]["sums"], torch.tensor([0.5, 5.0], dtype=torch.float64))
    assert state["epoch"]["names"] == ["sort", "size"] and state["epoch"]["steps"] == [1, 1]
    assert state["samples"] == 4
    other = Meter([], "", show=False)
    other.load_state_dict(empty)
    assert math.isnan(other.close()["train/loss"])


def test_the_bar_shows_loss_speed_waiting_and_memory(capsys):
    meter = Meter(Batches([batch_of(4), batch_of(4), batch_of(2)]), "epoch 1/3", show=True)
    draw_always(meter.bar)

    run(meter, [1.0, 2.0, 6.0])
    meter.bar.refresh()
    shown = capsys.readouterr().err
    meter.close()

    assert re.search(r"epoch 1/3: 100%.* 10/10 \[.*samples/s, loss 66.000, sort 6.000, size 60.000", shown)
    assert re.search(r"waiting \d+%, \d+\.\d GB\]", shown)


def test_the_bar_of_an_epoch_that_is_taken_up_begins_where_it_was(capsys):
    meter, other = (Meter(Batches([batch_of(4)] * 2), "", show=show) for show in (False, True))
    run(meter, [1.0])

    other.load_state_dict(meter.state_dict())
    other.bar.refresh()
    other.close()

    assert "4/10" in capsys.readouterr().err


def test_batches_that_do_not_know_their_samples_are_counted_themselves(capsys):
    meter = Meter([batch_of(4)] * 5, "", show=True)
    draw_always(meter.bar)

    run(meter, [1.0, 1.0])
    meter.close()

    assert re.search(r"2/5 \[.*batches/s", capsys.readouterr().err)


def test_several_processes_have_one_bar_and_count_the_samples_of_all(monkeypatch):
    monkeypatch.setattr(module, "world", lambda: 4)
    monkeypatch.setattr(module, "is_main", lambda: False)
    meter = Meter(Batches([batch_of(4)]), "", show=True)

    run(meter, [1.0])

    assert meter.bar.disable
    assert meter.state_dict()["samples"] == 16
    monkeypatch.setattr(module, "world", lambda: 2)
    other = Meter(Batches([batch_of(4)]), "", show=False)
    other.load_state_dict(meter.state_dict())
    assert other.state_dict()["samples"] == 16


def test_memory_is_told_where_there_is_no_proc(monkeypatch):
    def refuse(*args, **kwargs):
        raise FileNotFoundError

    here = memory_mb()
    monkeypatch.setattr(builtins, "open", refuse)

    assert memory_mb() > 0.5 * here


def test_on_a_gpu_memory_is_the_most_that_its_tensors_took(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2_000_000)

    assert memory_mb() == 2.0
