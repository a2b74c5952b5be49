"""How processes meet, and what they tell each other."""

import pytest
import torch
import torch.distributed as dist
from processes import outcomes, run
from torch import nn

from mmfuse.distributed import (
    agree,
    background,
    connect,
    disconnect,
    gather_rows,
    gather_texts,
    is_main,
    rank,
    saved_buffers,
    share_buffers,
    share_tensor,
    world,
)

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def test_a_process_on_its_own_meets_nobody(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    connect()

    assert not dist.is_initialized()
    assert (rank(), world(), is_main()) == (0, 1, True)
    assert agree([1, 2.5]) == [1.0, 2.5]
    assert gather_texts("ä") == ["ä"]
    assert torch.equal(gather_rows(torch.ones(2, 3))[0], torch.ones(2, 3))
    share_buffers(nn.BatchNorm1d(2))
    assert background() is None
    disconnect()


def test_variables_that_another_program_left_behind_are_not_enough(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    connect()

    assert (rank(), world()) == (0, 1)


def meet() -> tuple[int, int, str, list[float]]:
    before = (rank(), world())
    assert not dist.is_initialized()
    connect(20.0)
    connect(20.0)
    assert before == (rank(), world())
    assert dist.get_backend_config().startswith("cpu:gloo")
    first = agree([1.0, rank()])
    disconnect()
    connect(20.0)  # again, under other names in the store
    assert agree([1.0, rank()]) == first
    return *before, "main" if is_main() else "other", first


def test_torchrun_s_environment_is_known_before_they_meet_and_they_meet_once():
    found = [each.result for each in outcomes(2, meet, meet=False)]

    assert found == [(0, 2, "main", [2.0, 1.0]), (1, 2, "other", [2.0, 1.0])]


def groups() -> tuple[bool, float, list[float]]:
    disconnect()
    connect(17.0)
    first = background()
    waits = first._get_backend(torch.device("cpu")).options._timeout.total_seconds()
    same = first is background()
    disconnect()
    connect(17.0)
    return same and first is not background(), waits, agree([rank(), 1], background())


def test_there_is_one_group_for_the_background_that_waits_as_long_as_the_first():
    assert [each.result for each in outcomes(2, groups, meet=False)] == [(True, 17.0, [1.0, 2.0])] * 2


def talk() -> tuple[list, list[str]]:
    rows = torch.arange(rank() * 2, dtype=torch.bfloat16).reshape(rank(), 2)
    nothing = gather_rows(torch.zeros(3, 0))
    assert [part.shape for part in nothing] == [(3, 0)] * world()
    return [part.tolist() for part in gather_rows(rows)], gather_texts("é" * rank())


def test_rows_and_texts_of_any_number_are_gathered():
    assert run(3, talk) == [([[], [[0.0, 1.0]], [[0.0, 1.0], [2.0, 3.0]]], ["", "é", "éé"])] * 3


def buffers() -> tuple[list[float], list[float]]:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    module.register_buffer("table", torch.full((2,), float(rank())), persistent=False)
    module[0].running_mean += rank() + 1
    assert saved_buffers(module) == ["0.running_mean", "0.running_var", "0.num_batches_tracked"]
    share_buffers(module)
    return module[0].running_mean.tolist(), module.table.tolist()


def test_saved_buffers_become_those_of_rank_0_and_constants_stay():
    assert run(2, buffers) == [([1.0, 1.0], [0.0, 0.0]), ([1.0, 1.0], [1.0, 1.0])]


KINDS = {
    **{str(dtype): torch.arange(6).to(dtype) for dtype in (torch.bool, torch.int16, torch.uint16, torch.bfloat16)},
    "complex": torch.complex(torch.arange(6.0), torch.ones(6)),
    "one number": torch.tensor(2.0),
    "nothing": torch.ones(0, 3),
    "turned": torch.arange(6.0).view(2, 3).t(),
    "channels last": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "every other": torch.arange(12.0)[::2],
    "repeated": torch.arange(3.0)[:, None].expand(3, 4),
}


def share_all() -> dict[str, list]:
    for tensor in KINDS.values():
        if rank():
            tensor.untyped_storage().fill_(0)
        before = tensor.stride()
        share_tensor(tensor)
        assert tensor.stride() == before
    return {name: tensor.tolist() for name, tensor in KINDS.items()}


def test_tensors_of_any_type_and_layout_are_shared():
    assert run(2, share_all) == [{name: tensor.tolist() for name, tensor in KINDS.items()}] * 2


@pytest.mark.plain
def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    for name, value in zip(VARIABLES, ("2", "3", "127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(name, value)

    with pytest.raises(
        ValueError, match=r"started at least 3 processes on a machine with 2 GPUs. .* --nproc-per-node=2"
    ):
        connect()


def test_each_process_takes_the_gpu_of_its_local_rank(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    made = {}
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **how: made.update(how, backend=backend))
    monkeypatch.setattr("atexit.register", lambda _: None)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    values = ("1", "2", "127.0.0.1", str(store.port))
    for name, value in zip((*VARIABLES, "LOCAL_RANK"), (*values, "1"), strict=True):
        monkeypatch.setenv(name, value)

    connect(30.0)

    assert taken == [1]
    assert (made["backend"], made["rank"], made["world_size"]) == ("cpu:gloo,cuda:nccl", 1, 2)
    assert made["timeout"].total_seconds() == 30
