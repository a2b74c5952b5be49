"""DDP with parameters that some processes leave out of a step: no hang, and the gradients of one process."""

import importlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import outcomes, run
from torch import Tensor, nn

from mmfuse.distributed import rank, world
from mmfuse.training import replicas
from mmfuse.training.distributed import synchronising
from mmfuse.training.replicas import Replicas

USED = (  # by step: which of three processes use part 0, 1, ...
    ([0, 1, 2], [1], [], [0, 2], []),
    ([0], [0, 1, 2], [], [2], []),
    ([], [2], [1], [0, 1, 2], []),
    ([0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2], []),
)


@pytest.fixture(scope="module", autouse=True)
def warm():
    """What DDP imports is imported once, and not in every process."""
    importlib.import_module("torch._dynamo")


class Parts(nn.Module):
    """Layers of which each call uses some, as an encoder of one's own may; in the place of an ``Objective``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(nn.Linear(3, 2) for _ in range(5)).double()
        self.parts[1].bias.requires_grad_(False)

    def forward(self, step: int, of: int) -> tuple[Tensor, None]:
        x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(10 * step + of))
        losses = [part(x).square().mean() for part, ranks in zip(self.parts, USED[step], strict=True) if of in ranks]
        return torch.stack(losses).sum(), None


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def alone(steps: Sequence[int]) -> list[Tensor | None]:
    """The gradients of three processes and some steps together, as one process has them."""
    objective = Parts()
    for step in steps:
        for of in range(3):
            (objective(step, of)[0] / 3).backward()
    return gradients(objective)


def together(windows: Sequence[Sequence[int]]) -> list[list[Tensor | None]]:
    objective: Any = Replicas(Parts())
    found = []
    for window in windows:
        objective.zero_grad(set_to_none=True)
        for step in window:
            with synchronising(objective, last=step == window[-1]):
                objective(step, rank())[0].backward()
        found.append(gradients(objective))
    return found


@pytest.mark.parametrize("asks", [True, False], ids=["asks", "searches"])
@pytest.mark.parametrize("windows", [[[0], [1], [2], [3], [0]], [[0, 1], [3, 2], [1, 2, 0]]], ids=["single", "windows"])
def test_what_is_left_out_has_the_gradient_of_one_process_and_none_where_all_leave_it_out(windows, asks, monkeypatch):
    assert replicas._ASKS  # every torch that is allowed can be asked
    monkeypatch.setattr(replicas, "_ASKS", asks)
    expected = [alone(window) for window in windows]

    ended = outcomes(3, together, windows)

    for each in ended:
        assert each.code == 0, each.log
        assert "find_unused_parameters" not in each.log
        for gradient, same in zip(each.result, expected, strict=True):
            assert [x is None for x in gradient] == [x is None for x in same]
            torch.testing.assert_close([x for x in gradient if x is not None], [x for x in same if x is not None])


def layouts(steps: Sequence[int]) -> list[list[list[int]]]:
    """By step: the parameters in each bucket that was sent."""
    objective: Any = Replicas(Parts())
    numbers = {id(parameter): number for number, parameter in enumerate(objective.parameters())}
    sent: list[list[list[int]]] = []

    def note(_: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        sent[-1].append([numbers[id(parameter)] for parameter in bucket.parameters()])
        future = dist.all_reduce(bucket.buffer() / world(), async_op=True).get_future()
        return future.then(lambda done: done.value()[0])

    objective.register_comm_hook(None, note)
    for step in steps:
        sent.append([])
        objective(step, rank())[0].backward()
    return sent


@pytest.mark.parametrize("asks", [True, False], ids=["asks", "searches"])
def test_the_layout_of_what_travels_is_the_same_at_every_step_and_after_any_first_step(asks, monkeypatch):
    """Three processes add in an order that depends on it: a run that goes on would differ in the last bits."""
    monkeypatch.setattr(replicas, "_ASKS", asks)
    (first, *others), _, _ = run(3, layouts, [0, 1, 2])
    ((again,), *_) = run(3, layouts, [3])

    assert [first, first] == others
    assert again == first
    assert sorted(number for bucket in first for number in bucket) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
