"""Rows of all processes, with gradients."""

import torch
import torch.nn.functional as F
from processes import run
from torch import Tensor, nn

from mmfuse.distributed import agree, rank
from mmfuse.losses import gather

COUNTS = [3, 1, 2]  # rows of each process


def rows_of(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return tuple(torch.randn(COUNTS[number], 5, dtype=torch.float64, generator=generator) for _ in range(2))


def make() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(5, 4).double()


def contrastive(left: Tensor, right: Tensor, all_left: Tensor, all_right: Tensor, first: int) -> Tensor:
    """The sum over the own rows of the loss of both directions."""
    wanted = first + torch.arange(len(left))
    scores, back = left @ all_right.T, right @ all_left.T
    return F.cross_entropy(scores, wanted, reduction="sum") + F.cross_entropy(back, wanted, reduction="sum")


def learn() -> tuple[float, Tensor]:
    model = make()
    wrapped = nn.parallel.DistributedDataParallel(model)
    left, right = wrapped(torch.cat(rows_of(rank()))).split(COUNTS[rank()])
    loss = contrastive(left, right, gather(left), gather(right), first=sum(COUNTS[: rank()])) / sum(COUNTS)
    (loss * len(COUNTS)).backward()  # DDP takes the mean over the processes
    return agree([loss.item()])[0], model.weight.grad


def test_a_contrastive_loss_over_three_processes_equals_that_of_one():
    model = make()
    lefts, rights = zip(*map(rows_of, range(3)), strict=True)
    left, right = model(torch.cat(lefts)), model(torch.cat(rights))
    loss = contrastive(left, right, left, right, first=0) / sum(COUNTS)
    loss.backward()

    for found, gradient in run(3, learn):
        torch.testing.assert_close(found, loss.item(), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, model.weight.grad, rtol=1e-12, atol=1e-14)


def sizes() -> tuple[list[int], bool]:
    present = torch.arange(rank() * 2) > 0
    return gather(present).tolist(), gather(torch.zeros(rank(), 0)).shape == (1, 0)


def test_masks_and_processes_without_rows_are_gathered_too():
    assert run(2, sizes) == [([False, True], True)] * 2


def test_one_process_gives_its_rows_as_they_are():
    rows = torch.randn(3, 5, requires_grad=True)

    assert gather(rows) is rows
